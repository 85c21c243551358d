// @ts-check
/**
 * Draws a poster from a seed: three inks, made of nothing but dots.
 *
 * Deterministic: one seed always gives the same poster. It only draws on the canvas it is given.
 */

const WIDTH = 480;
const HEIGHT = 640;
const MARGIN = 26;
const FOOT = HEIGHT - 60; // the caption is below it
const PAPER = "#faf7f0";
const PROOF_INK = "#b9b6ae";

const INKS = [
  ["#ff4c65", "#0a6cff", "#ffd400"],
  ["#00838a", "#ff6c2f", "#f7c9d4"],
  ["#3d3bd4", "#ff48b0", "#ffe45c"],
  ["#e4002b", "#1d1d24", "#f2b705"],
  ["#00804c", "#ff8fb3", "#2b3f9e"],
  ["#19335f", "#f15060", "#5ec8e5"],
];
const ANGLES = [0.26, 1.31, 0.785]; // the printer's screen angles: inks that cross without moiré
const FIRST = [
  "Quiet",
  "Loud",
  "Second",
  "Slow",
  "Paper",
  "Night",
  "Salt",
  "Borrowed",
  "Paid-up",
  "Northern",
  "Spare",
  "Soft",
];
const LAST = [
  "Engine",
  "Sunday",
  "Harbour",
  "Signal",
  "Orchard",
  "Tide",
  "Letter",
  "Machine",
  "Garden",
  "Window",
  "Echo",
  "Hour",
];

/** @typedef {(x: number, y: number) => number} Tone how much ink lies at x, y (0..1 across, 0..4/3 down) */
/** @typedef {{ink: string, angle: number, tone: Tone, shift: [number, number]}} Layer */

/** A small seeded generator (mulberry32 over an FNV-1a hash). @param {string} seed @returns {() => number} */
function randomFrom(seed) {
  let state = 2166136261;
  for (const char of seed) state = Math.imul(state ^ char.charCodeAt(0), 16777619);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** @param {number} value */
const clamp = (value) => Math.min(1, Math.max(0, value));
/** @param {number} from @param {number} to @param {number} x */
const smooth = (from, to, x) => {
  const t = clamp((x - from) / (to - from));
  return t * t * (3 - 2 * t);
};

/** A lit ball. @param {() => number} random @param {number} [size] @returns {Tone} */
function ball(random, size = 0.2 + random() * 0.18) {
  const cx = 0.25 + random() * 0.5;
  const cy = 0.3 + random() * 0.65;
  const light = random() * 6.28;
  return (x, y) => {
    const dx = (x - cx) / size;
    const dy = (y - cy) / size;
    const r = Math.hypot(dx, dy);
    if (r > 1) return 0;
    return clamp(0.55 - 0.5 * (dx * Math.cos(light) + dy * Math.sin(light)) + 0.3 * r ** 6);
  };
}

/** A wash that fades across the sheet. @param {() => number} random @returns {Tone} */
function wash(random) {
  const down = random() < 0.5;
  const tilt = (random() - 0.5) * 0.5;
  const depth = 0.55 + random() * 0.4;
  return (x, y) => {
    const t = y / 1.333 + tilt * (x - 0.5);
    return depth * smooth(0.05, 1.05, down ? t : 1 - t);
  };
}

/** Ridges, one behind another. @param {() => number} random @returns {Tone} */
function ridges(random) {
  const count = 3 + Math.floor(random() * 3);
  const waves = Array.from({ length: count }, (_, i) => ({
    base: 0.5 + (0.75 * i) / count,
    a: 0.05 + random() * 0.07,
    f: 3 + random() * 5,
    p: random() * 6.28,
  }));
  return (x, y) => {
    let tone = 0;
    waves.forEach(({ base, a, f, p }, i) => {
      const top = base + a * Math.sin(f * x + p) + 0.4 * a * Math.sin(2.7 * f * x + 2 * p);
      if (y > top) tone = clamp(0.25 + (0.6 * (i + 1)) / count - 1.5 * (y - top));
    });
    return tone;
  };
}

/** Concentric rings. @param {() => number} random @returns {Tone} */
function rings(random) {
  const cx = 0.2 + random() * 0.6;
  const cy = 0.25 + random() * 0.8;
  const pitch = 0.09 + random() * 0.08;
  return (x, y) => {
    const r = Math.hypot(x - cx, y - cy);
    return clamp((0.5 + 0.5 * Math.cos((6.28 * r) / pitch)) * (1.05 - 0.9 * r));
  };
}

/** Slanted bands that swell. @param {() => number} random @returns {Tone} */
function bands(random) {
  const angle = random() * 3.14;
  const pitch = 0.16 + random() * 0.16;
  const bend = random() * 0.18;
  return (x, y) => {
    const across = x * Math.cos(angle) + y * Math.sin(angle) + bend * Math.sin(4 * (y - x));
    const t = (((across / pitch) % 1) + 1) % 1;
    return clamp(1.1 * smooth(0, 0.9, t) * smooth(1, 0.9, t));
  };
}

/** An arch. @param {() => number} random @returns {Tone} */
function arch(random) {
  const cx = 0.35 + random() * 0.3;
  const top = 0.45 + random() * 0.2;
  const wide = 0.2 + random() * 0.12;
  return (x, y) => {
    const r = y < top ? Math.hypot(x - cx, y - top) : Math.abs(x - cx);
    return r > wide ? 0 : clamp(0.95 - 0.7 * smooth(top - wide, 1.333, y) + 0.25 * (r / wide) ** 4);
  };
}

/** @param {string} seed */
export function describe(seed) {
  const random = randomFrom(`name:${seed}`);
  const pick = (/** @type {string[]} */ words) => words[Math.floor(random() * words.length)];
  return { title: `${pick(FIRST)} ${pick(LAST)}`, number: String(Math.floor(random() * 9000) + 1000) };
}

/** @param {string} seed @returns {Layer[]} */
function layersOf(seed) {
  const random = randomFrom(seed);
  const inks = INKS[Math.floor(random() * INKS.length)];
  const shapes = [ball, ridges, rings, bands, arch];
  const main = shapes[Math.floor(random() * shapes.length)];
  const second = shapes[Math.floor(random() * shapes.length)];
  const big = ball(random, 0.3 + random() * 0.1);
  const tones = [main === ball ? big : main(random), second === main ? big : second(random), wash(random)];
  return tones.map((tone, i) => ({
    ink: inks[i],
    angle: ANGLES[i],
    tone,
    shift: [(random() - 0.5) * 3, (random() - 0.5) * 3], // the inks are slightly out of register
  }));
}

/** All dots of one ink, as one path. @param {Layer} layer @param {number} pitch @returns {Path2D} */
function dotsOf({ angle, tone, shift }, pitch) {
  const path = new Path2D();
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const reach = Math.ceil(Math.hypot(WIDTH, HEIGHT) / 2 / pitch);
  for (let i = -reach; i <= reach; i++) {
    for (let j = -reach; j <= reach; j++) {
      const x = WIDTH / 2 + (i * cos - j * sin) * pitch;
      const y = HEIGHT / 2 + (i * sin + j * cos) * pitch;
      if (x < MARGIN - pitch || x > WIDTH - MARGIN + pitch || y < MARGIN - pitch || y > FOOT + pitch)
        continue;
      const r = pitch * 0.72 * Math.sqrt(clamp(tone(x / WIDTH, y / WIDTH)));
      if (r < 0.35) continue;
      path.moveTo(x + shift[0] + r, y + shift[1]);
      path.arc(x + shift[0], y + shift[1], r, 0, 6.2832);
    }
  }
  return path;
}

/** @param {CanvasRenderingContext2D} pen @param {string} seed @param {string} ink */
function caption(pen, seed, ink) {
  const { title, number } = describe(seed);
  pen.fillStyle = ink;
  pen.font = "700 17px 'Helvetica Neue', Helvetica, Arial, sans-serif";
  pen.textBaseline = "alphabetic";
  pen.textAlign = "left";
  pen.fillText(title, MARGIN, HEIGHT - 25);
  pen.textAlign = "right";
  pen.font = "400 12px 'Helvetica Neue', Helvetica, Arial, sans-serif";
  pen.fillText(`Nº ${number}`, WIDTH - MARGIN, HEIGHT - 25);
}

/** @param {HTMLCanvasElement} canvas @param {number} scale device pixels for each of the poster's own */
function blank(canvas, scale) {
  canvas.width = WIDTH * scale;
  canvas.height = HEIGHT * scale;
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.scale(scale, scale);
  pen.fillStyle = PAPER;
  pen.fillRect(0, 0, WIDTH, HEIGHT);
  return pen;
}

/** Clip drawing to the plate, down to `edge`. @param {CanvasRenderingContext2D} pen @param {number} [edge] */
function plate(pen, edge = FOOT) {
  pen.save();
  pen.beginPath();
  pen.rect(MARGIN, MARGIN, WIDTH - 2 * MARGIN, Math.min(edge, FOOT) - MARGIN);
  pen.clip();
}

/** Draw the whole poster. @param {HTMLCanvasElement} canvas @param {string} seed @param {number} [scale] */
export function print(canvas, seed, scale = 1) {
  const pen = blank(canvas, scale);
  pen.globalCompositeOperation = "multiply";
  plate(pen);
  for (const layer of layersOf(seed)) {
    pen.fillStyle = layer.ink;
    pen.fill(dotsOf(layer, 6.4));
  }
  pen.restore();
  caption(pen, seed, "#1d1d24");
}

/** Draw the grey proof that is shown before the poster is paid for. @param {HTMLCanvasElement} canvas @param {string} seed */
export function proof(canvas, seed) {
  const pen = blank(canvas, 2);
  pen.fillStyle = PROOF_INK;
  plate(pen);
  pen.globalAlpha = 0.75;
  for (const layer of layersOf(seed).slice(0, 2)) pen.fill(dotsOf(layer, 9.6));
  pen.restore();
  caption(pen, seed, "#8a877f");
}

/**
 * Animate the printing: one ink after another, each rolled down the sheet.
 * @param {HTMLCanvasElement} canvas @param {string} seed @returns {Promise<void>} when the poster is finished
 */
export function press(canvas, seed) {
  const plates = layersOf(seed).map((layer) => ({ ink: layer.ink, dots: dotsOf(layer, 6.4) }));
  const sheet = document.createElement("canvas");
  const wet = blank(sheet, 2);
  wet.globalCompositeOperation = "multiply";
  plate(wet);
  const pen = blank(canvas, 2);
  let laid = 0;
  const pass = 620;
  return new Promise((resolve) => {
    const began = performance.now();
    const frame = (/** @type {number} */ now) => {
      const pos = Math.min(plates.length, Math.max(0, now - began) / pass);
      while (laid < Math.floor(pos)) {
        wet.fillStyle = plates[laid].ink;
        wet.fill(plates[laid++].dots);
      }
      pen.globalCompositeOperation = "copy";
      pen.drawImage(sheet, 0, 0, WIDTH, HEIGHT);
      pen.globalCompositeOperation = "multiply";
      if (laid < plates.length) {
        plate(pen, MARGIN + (FOOT - MARGIN) * smooth(0, 1, pos - laid));
        pen.fillStyle = plates[laid].ink;
        pen.fill(plates[laid].dots);
        pen.restore();
        requestAnimationFrame(frame);
        return;
      }
      caption(pen, seed, "#1d1d24");
      resolve();
    };
    requestAnimationFrame(frame);
  });
}
