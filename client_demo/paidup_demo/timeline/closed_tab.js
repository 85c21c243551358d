// @ts-check
/** The page of a closed tab: only looks on at the race. */
import { start } from "./timeline.js";

void start({ sandbox: null, stripe_js: "", publishable_key: "" });
