/**
 * The styles of `<paidup-activation>`: its stylesheet, the marks of its steps, and helpers that create elements.
 *
 * All colours come from custom properties. There are no inline styles, images or markup in strings, so it works under
 * the strictest Content-Security-Policy, including Trusted Types.
 */
export type Mark = import("./words.js").Mark;
/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name @param {Record<string, string>} attributes @param {Node[]} [children]
 * @returns {HTMLElementTagNameMap[Name]}
 */
export declare function element<Name extends keyof HTMLElementTagNameMap>(name: Name, attributes: Record<string, string>, children?: Node[]): HTMLElementTagNameMap[Name];
/** The round mark of a step. @param {boolean} last draws rays on success */
export declare function markElement(last: boolean): SVGSVGElement;
/** @param {Element} mark @param {Mark} as */
export declare function drawMark(mark: Element, as: Mark): void;
export declare function styleSheet(): CSSStyleSheet;
