/** What the examples need of the frameworks; their own types would be more packages. */
declare module "react-dom/client" {
  export function createRoot(container: Element): { render(node: import("react").ReactNode): void };
}
declare module "vue" {
  export function createApp(component: object): { mount(selector: string): void };
}
declare module "svelte" {
  export function mount(component: object, options: { target: Element }): void;
}
declare module "*.vue" {
  const component: object;
  export default component;
}
declare module "*.svelte" {
  const component: object;
  export default component;
}
