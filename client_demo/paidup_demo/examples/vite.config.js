/** Builds the examples with a framework into built/: `vite build`. */
import { svelte } from "@sveltejs/vite-plugin-svelte";
import vue from "@vitejs/plugin-vue";
import { defineConfig } from "vite";

const isCustomElement = (tag) => tag === "paidup-activation"; // else Vue looks for a component of that name

export default defineConfig({
  plugins: [vue({ template: { compilerOptions: { isCustomElement } } }), svelte()],
  esbuild: { jsx: "automatic" },
  build: {
    outDir: "built",
    modulePreload: false,
    rollupOptions: {
      input: { react: "react.jsx", "react-element": "react-element.tsx", vue: "vue.js", svelte: "svelte.js" },
      output: { entryFileNames: "[name].js", chunkFileNames: "[name]-[hash].js" },
    },
  },
});
