// @ts-check
/** The page shown in place of a closed tab: displays the timeline only. */
import { start } from "./timeline.js";

void start({ sandbox: null, stripe_js: "", publishable_key: "" });
