/**
 * How `<paidup-activation>` looks: its stylesheet, the marks of its steps, and the making of its elements.
 *
 * Owns every colour and movement, all of them from custom properties. Needs no inline style, no image and no markup in
 * strings, so that it passes the strictest Content-Security-Policy, Trusted Types included.
 */
export type Mark = import("./words.js").Mark;
/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name @param {Record<string, string>} attributes @param {Node[]} [children]
 * @returns {HTMLElementTagNameMap[Name]}
 */
export declare function element<Name extends keyof HTMLElementTagNameMap>(name: Name, attributes: Record<string, string>, children?: Node[]): HTMLElementTagNameMap[Name];
/** The round mark of a step. @param {boolean} last it has rays, for the joy */
export declare function markElement(last: boolean): SVGSVGElement;
/** @param {Element} mark @param {Mark} as */
export declare function drawMark(mark: Element, as: Mark): void;
export declare function styleSheet(): CSSStyleSheet;
