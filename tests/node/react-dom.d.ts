/** Of react-dom the example needs only this; its types would be one more package. */
declare module "react-dom/client" {
  export function createRoot(container: Element): { render(node: import("react").ReactNode): void };
}
