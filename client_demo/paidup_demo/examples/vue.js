// @ts-check
import { createApp } from "vue";

import Shop from "./VueShop.vue";

createApp(Shop).mount("#root");
