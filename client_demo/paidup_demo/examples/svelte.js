// @ts-check
import { mount } from "svelte";

import Shop from "./SvelteShop.svelte";

const target = /** @type {HTMLElement} */ (document.getElementById("root"));
target.replaceChildren();
mount(Shop, { target });
