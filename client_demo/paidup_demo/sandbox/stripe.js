/**
 * The sandbox's stand-in for Stripe.js: the card element and confirmCardPayment, the payment element (cards, wallets, Link,
 * bank debits, redirects, vouchers), the express checkout element and confirmPayment, and the 3-D Secure dialog.
 *
 * It has the interface of https://js.stripe.com, so that a page works with either. It calls only the sandbox that served it
 * and refuses live keys. Never enter real cards: unlike Stripe.js, it does not isolate card data from the page.
 */
(() => {
  'use strict';

  /** The sandbox's origin: this script's own. */
  const BASE = new URL(document.currentScript.src).origin;

  const BRANDS = [
    { brand: 'amex', pattern: /^3[47]/, groups: [4, 6, 5], cvc: 4, label: 'AMEX' },
    { brand: 'mastercard', pattern: /^(5[1-5]|2[2-7])/, groups: [4, 4, 4, 4], cvc: 3, label: 'MC' },
    { brand: 'visa', pattern: /^4/, groups: [4, 4, 4, 4], cvc: 3, label: 'VISA' },
    { brand: 'discover', pattern: /^6/, groups: [4, 4, 4, 4], cvc: 3, label: 'DISC' },
  ];
  const UNKNOWN = { brand: 'unknown', groups: [4, 4, 4, 4], cvc: 3, label: '' };

  const MESSAGES = {
    incomplete_number: 'Your card number is incomplete.',
    incorrect_number: 'Your card number is invalid.',
    incomplete_expiry: 'Your card’s expiration date is incomplete.',
    invalid_expiry_month_past: 'Your card’s expiration date is in the past.',
    invalid_expiry_month: 'Your card’s expiration date is invalid.',
    incomplete_cvc: 'Your card’s security code is incomplete.',
  };

  // ---------------------------------------------------------------------------------------------- card data, no DOM

  const digitsOf = (text) => text.replace(/\D/g, '');
  const brandOf = (digits) => BRANDS.find((known) => known.pattern.test(digits)) ?? UNKNOWN;
  const lengthOf = (kind) => kind.groups.reduce((sum, size) => sum + size, 0);

  function formatNumber(digits) {
    const kind = brandOf(digits);
    const parts = [];
    let rest = digits.slice(0, lengthOf(kind));
    for (const size of kind.groups) {
      if (rest) parts.push(rest.slice(0, size));
      rest = rest.slice(size);
    }
    return parts.join(' ');
  }

  function formatExpiry(digits) {
    const padded = /^[2-9]/.test(digits) ? `0${digits}` : digits;
    const four = padded.slice(0, 4);
    return four.length > 2 ? `${four.slice(0, 2)} / ${four.slice(2)}` : four;
  }

  function passesLuhn(digits) {
    let sum = 0;
    for (let i = 0; i < digits.length; i += 1) {
      const value = Number(digits[digits.length - 1 - i]) * (1 + (i % 2));
      sum += value > 9 ? value - 9 : value;
    }
    return sum % 10 === 0;
  }

  /** @returns {string|null} the code of what is wrong with a card number, once it is complete or must be */
  function numberError(digits, mustBeComplete) {
    if (digits.length < lengthOf(brandOf(digits))) return mustBeComplete ? 'incomplete_number' : null;
    return passesLuhn(digits) ? null : 'incorrect_number';
  }

  function expiryError(digits, mustBeComplete) {
    const month = Number(digits.slice(0, 2));
    if (digits.length >= 2 && (month < 1 || month > 12)) return 'invalid_expiry_month';
    if (digits.length < 4) return mustBeComplete ? 'incomplete_expiry' : null;
    const now = new Date();
    const months = (2000 + Number(digits.slice(2))) * 12 + month - 1;
    return months < now.getFullYear() * 12 + now.getMonth() ? 'invalid_expiry_month_past' : null;
  }

  function cvcError(digits, mustBeComplete, kind) {
    return mustBeComplete && digits.length < kind.cvc ? 'incomplete_cvc' : null;
  }

  const validationError = (code) => ({
    type: 'validation_error',
    code: code === 'invalid_expiry_month_past' ? 'invalid_expiry_year_past' : code,
    message: MESSAGES[code],
  });

  // -------------------------------------------------------------------------------------------------- the card element

  const CARD_CSS = `
    :host { display: block; color: inherit; font: inherit; }
    .card { display: flex; flex-wrap: wrap; align-items: center; gap: .5em .75em; }
    .number { display: flex; align-items: center; gap: .6em; flex: 1 1 13.5em; min-width: 0; }
    .small { display: flex; gap: .75em; flex: 0 1 auto; }
    .badge { display: grid; place-items: center; inline-size: 3.6em; block-size: 2.1em; flex: none; border-radius: .25em;
      border: 1px solid color-mix(in srgb, currentColor 35%, transparent); font: 700 .68em/1 system-ui, sans-serif;
      letter-spacing: .02em; }
    input { font: inherit; font-size: max(16px, 1em); color: inherit; background: transparent; border: 0; padding: .2em 0;
      margin: 0; min-width: 0; inline-size: 100%; outline: none; border-radius: .15em; font-variant-numeric: tabular-nums; }
    input[name=exp-date] { inline-size: 5.2em; }
    input[name=cvc] { inline-size: 3.6em; }
    input::placeholder { color: color-mix(in srgb, currentColor 65%, transparent); opacity: 1; }
    input:focus-visible { box-shadow: 0 .12em 0 0 currentColor; }
    input:disabled { cursor: not-allowed; opacity: .6; }
    input[aria-invalid=true] { color: var(--stripe-card-invalid-color, #c0262d);
      color: var(--stripe-card-invalid-color, light-dark(#b3261e, #ffb4ab)); }
    .hidden { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%);
      white-space: nowrap; }`;

  const CARD_HTML = `
    <div class="card" role="group" aria-label="Card">
      <span class="number"><span class="badge" aria-hidden="true"></span>
        <label class="hidden" for="number">Card number</label>
        <input id="number" name="cardnumber" inputmode="numeric" autocomplete="cc-number" placeholder="Card number"
          spellcheck="false" aria-required="true"></span>
      <span class="small">
        <label class="hidden" for="expiry">Expiration date, month and year</label>
        <input id="expiry" name="exp-date" inputmode="numeric" autocomplete="cc-exp" placeholder="MM / YY"
          spellcheck="false" aria-required="true">
        <label class="hidden" for="cvc">Security code, CVC</label>
        <input id="cvc" name="cvc" inputmode="numeric" autocomplete="cc-csc" placeholder="CVC"
          spellcheck="false" aria-required="true"></span>
    </div>`;

  const PAYMENT_CSS = `
    .card { display: grid; grid-template-columns: 1fr 1fr; align-items: start; gap: .75rem; color: inherit; }
    .card > span { display: grid; gap: .25rem; }
    .number { grid-column: 1 / -1; }
    .card > .small { display: contents; }
    .small > span { display: grid; gap: .25rem; }
    .badge { display: none; }
    .hidden { position: static; inline-size: auto; block-size: auto; overflow: visible; clip-path: none; white-space: normal;
      font-size: .875em; }
    input, input[name=exp-date], input[name=cvc] { inline-size: 100%; box-sizing: border-box; padding: .65rem .75rem;
      border: 1px solid color-mix(in srgb, currentColor 55%, transparent); border-radius: .35rem; }
    input:focus-visible { box-shadow: 0 0 0 3px color-mix(in srgb, currentColor 30%, transparent); }
    .wrong { grid-column: 1 / -1; min-block-size: 1.5em; margin: 0; font-size: .875em; color: light-dark(#b3261e, #ffb4ab); }`;

  class CardElement {
    constructor(options = {}) {
      this._type = 'card';
      this._options = options;
      this._listeners = new Map();
      this._container = null;
      this._host = document.createElement('div');
      this._root = this._host.attachShadow({ mode: 'open' });
      this._root.innerHTML = `<style>${CARD_CSS}</style>${CARD_HTML}`;
      this._number = this._root.querySelector('[name=cardnumber]');
      this._expiry = this._root.querySelector('[name=exp-date]');
      this._cvc = this._root.querySelector('[name=cvc]');
      this._inputs = [this._number, this._expiry, this._cvc];
      this._touched = new Set();
      this._listen();
      this._applyOptions();
      this._render();
    }

    mount(target) {
      const node = typeof target === 'string' ? document.querySelector(target) : target;
      if (!node) throw new Error(`The selector you specified (${target}) applies to no DOM elements that are currently on the page.`);
      this.unmount();
      this._container = node;
      node.replaceChildren(this._host);
      node.classList.add('StripeElement');
      this._mark();
      queueMicrotask(() => this._emit('ready', { elementType: this._type }));
    }

    unmount() {
      this._host.remove();
      this._container?.classList.remove(
        'StripeElement', 'StripeElement--focus', 'StripeElement--complete', 'StripeElement--invalid', 'StripeElement--empty');
      this._container = null;
    }

    destroy() {
      this.unmount();
      this._listeners.clear();
    }

    on(event, handler) {
      if (!this._listeners.has(event)) this._listeners.set(event, new Set());
      this._listeners.get(event).add(handler);
      return this;
    }

    once(event, handler) {
      const wrapped = (payload) => {
        this.off(event, wrapped);
        handler(payload);
      };
      return this.on(event, wrapped);
    }

    off(event, handler) {
      if (handler) this._listeners.get(event)?.delete(handler);
      else this._listeners.delete(event);
      return this;
    }

    update(options) {
      this._options = { ...this._options, ...options };
      this._applyOptions();
    }

    clear() {
      for (const input of this._inputs) input.value = '';
      this._touched.clear();
      this._changed();
    }

    focus() {
      (this._inputs.find((input) => this._errorOf(input, true)) ?? this._number).focus();
    }

    blur() {
      for (const input of this._inputs) input.blur();
    }

    /** Only in the sandbox: type a test card, with any future date and security code. */
    sandboxFill(number) {
      const year = String(new Date().getFullYear() + 10).slice(2);
      const digits = digitsOf(number);
      this._number.value = formatNumber(digits);
      this._expiry.value = formatExpiry(`12${year}`);
      this._cvc.value = '123'.padEnd(brandOf(digits).cvc, '4');
      this._touched.clear();
      this._changed();
    }

    /** The card as form fields, or a validation error. */
    _card() {
      for (const input of this._inputs) this._touched.add(input);
      this._changed();
      const wrong = this._inputs.find((input) => this._errorOf(input, true));
      if (wrong) return { error: validationError(this._errorOf(wrong, true)) };
      const expiry = digitsOf(this._expiry.value);
      return {
        card: {
          number: digitsOf(this._number.value),
          exp_month: expiry.slice(0, 2),
          exp_year: `20${expiry.slice(2)}`,
          cvc: digitsOf(this._cvc.value),
        },
      };
    }

    _errorOf(input, mustBeComplete) {
      const digits = digitsOf(input.value);
      if (input === this._number) return numberError(digits, mustBeComplete);
      if (input === this._expiry) return expiryError(digits, mustBeComplete);
      return cvcError(digits, mustBeComplete, brandOf(digitsOf(this._number.value)));
    }

    _listen() {
      this._number.addEventListener('input', () => this._typed(this._number, formatNumber));
      this._expiry.addEventListener('input', (event) => {
        const deleting = event.inputType?.startsWith('delete');
        this._typed(this._expiry, deleting ? (digits) => digits.slice(0, 4).replace(/^(..)(.+)/, '$1 / $2') : formatExpiry);
      });
      this._cvc.addEventListener('input', () =>
        this._typed(this._cvc, (digits) => digits.slice(0, brandOf(digitsOf(this._number.value)).cvc)));
      for (const [place, input] of this._inputs.entries()) {
        input.addEventListener('focus', () => this._focused(true));
        input.addEventListener('blur', () => {
          if (input.value) this._touched.add(input);
          this._changed();
          this._focused(false);
        });
        input.addEventListener('keydown', (event) => {
          if (event.key === 'Backspace' && !input.value && place > 0) this._inputs[place - 1].focus();
          if (event.key === 'Enter') this._submit();
        });
      }
    }

    /** Formats the input, keeps the caret after the same digit, and moves to the next field when this one is full. */
    _typed(input, format) {
      const atEnd = input.selectionStart === input.value.length;
      const before = digitsOf(input.value.slice(0, input.selectionStart)).length;
      const digits = digitsOf(input.value);
      input.value = format(digits);
      if (!atEnd) {
        let place = 0;
        for (let seen = 0; seen < before && place < input.value.length; place += 1) {
          if (/\d/.test(input.value[place])) seen += 1;
        }
        input.setSelectionRange(place, place);
      }
      this._touched.delete(input);
      this._changed();
      const next = this._inputs[this._inputs.indexOf(input) + 1];
      if (atEnd && next && digits && !this._errorOf(input, true) && this._root.activeElement === input) next.focus();
    }

    /** Enter submits the page's form, as in any other field. */
    _submit() {
      this._container?.closest('form')?.requestSubmit();
    }

    _focused(focused) {
      this._container?.classList.toggle('StripeElement--focus', focused);
      this._emit(focused ? 'focus' : 'blur', { elementType: this._type });
    }

    _changed() {
      this._render();
      const state = this._state();
      const told = JSON.stringify(state);
      if (told === this._told) return;
      this._told = told;
      this._emit('change', state);
    }

    _state() {
      const error = this._inputs.map((input) => this._errorOf(input, this._touched.has(input))).find(Boolean);
      return {
        elementType: 'card',
        brand: brandOf(digitsOf(this._number.value)).brand,
        empty: this._inputs.every((input) => !input.value),
        complete: this._inputs.every((input) => !this._errorOf(input, true)),
        error: error ? validationError(error) : undefined,
        value: { postalCode: '' },
      };
    }

    _render() {
      for (const input of this._inputs) {
        const wrong = this._errorOf(input, this._touched.has(input));
        input.setAttribute('aria-invalid', String(Boolean(wrong)));
        input.title = wrong ? MESSAGES[wrong] : '';
      }
      const kind = brandOf(digitsOf(this._number.value));
      this._root.querySelector('.badge').textContent = kind.label || '••';
      this._mark();
    }

    _mark() {
      const state = this._state();
      const classes = this._container?.classList;
      classes?.toggle('StripeElement--empty', state.empty);
      classes?.toggle('StripeElement--complete', state.complete);
      classes?.toggle('StripeElement--invalid', Boolean(state.error));
    }

    _applyOptions() {
      const { disabled = false, style = {} } = this._options;
      for (const input of this._inputs) input.disabled = disabled;
      const base = style.base ?? {};
      for (const name of ['color', 'fontFamily', 'fontSize', 'fontWeight', 'letterSpacing', 'lineHeight']) {
        this._host.style[name] = base[name] ?? '';
      }
      if (style.invalid?.color) this._host.style.setProperty('--stripe-card-invalid-color', style.invalid.color);
    }

    _emit(event, payload) {
      for (const handler of [...(this._listeners.get(event) ?? [])]) handler(payload);
    }
  }

  const BANK_CSS = `
    .tabs { display: flex; flex-wrap: wrap; gap: .5rem; margin-block-end: .75rem; }
    .tabs[hidden], .card[hidden], .bank[hidden] { display: none; }
    .tabs button { font: inherit; color: inherit; background: transparent; padding: .5rem .75rem; cursor: pointer;
      border: 1px solid color-mix(in srgb, currentColor 55%, transparent); border-radius: .35rem; }
    .tabs button[aria-selected=true] { border-color: currentColor; font-weight: 600; box-shadow: 0 0 0 1px currentColor; }
    .tabs button:focus-visible { outline: 3px solid color-mix(in srgb, currentColor 40%, transparent); outline-offset: 2px; }
    .bank { display: grid; gap: .75rem; }
    .bank label { display: grid; gap: .25rem; font-size: .875em; }
    .bank p { margin: 0; font-size: .875em; }`;

  /** The other payment methods of the payment element: a tab's name, its fields, and the sentence below them. */
  const BANKS = {
    sepa_debit: {
      label: 'SEPA Direct Debit',
      fields: { name: 'Full name', email: 'Email', iban: 'IBAN' },
      text: 'You authorize the debit of your bank account. It takes several business days.',
    },
    us_bank_account: {
      label: 'US bank account',
      fields: { name: 'Full name', email: 'Email', routing_number: 'Routing number', account_number: 'Account number' },
      text: 'You authorize the debit of your bank account. It takes several business days.',
    },
    ideal: { label: 'iDEAL', fields: {}, text: 'After submission, you are redirected to your bank.' },
    amazon_pay: { label: 'Amazon Pay', fields: {}, text: 'After submission, you are redirected to Amazon.' },
    bancontact: { label: 'Bancontact', fields: {}, text: 'After submission, you are redirected to your bank.' },
    link: { label: 'Link', fields: { email: 'Email' }, text: 'You pay with what you have saved with Link.' },
    apple_pay: { label: 'Apple Pay', fields: {}, text: 'Apple Pay opens when you pay.' },
    google_pay: { label: 'Google Pay', fields: {}, text: 'Google Pay opens when you pay.' },
    boleto: {
      label: 'Boleto',
      fields: {
        name: 'Full name', email: 'Email', tax_id: 'CPF or CNPJ', line1: 'Address', city: 'City', state: 'State', postal_code: 'Postal code',
      },
      text: 'You get a voucher, and pay it within three days.',
    },
    oxxo: { label: 'OXXO', fields: { name: 'Full name', email: 'Email' }, text: 'You get a voucher, and pay it within three days.' },
    konbini: { label: 'Konbini', fields: { name: 'Full name', email: 'Email' }, text: 'You get a voucher, and pay it within three days.' },
  };
  const BILLING = ['name', 'email'];
  const PLACE = ['line1', 'city', 'state', 'postal_code'];
  /** Cards of a wallet, as tokens: the sandbox's own names. */
  const WALLETS = { apple_pay: 'tok_apple_pay', google_pay: 'tok_google_pay' };

  const walletData = (wallet, billing) => ({ type: 'card', card: { token: WALLETS[wallet] }, billing_details: billing });

  /** What was typed for this type, as `payment_method_data`. */
  function enteredData(type, entered, billing) {
    const own = ([name]) => !BILLING.includes(name) && !PLACE.includes(name);
    const details = { name: entered.name, email: entered.email, ...billing };
    if (entered.line1) {
      details.address = { country: 'BR', ...Object.fromEntries(PLACE.map((name) => [name, entered[name]])) };
    }
    return { type, [type]: Object.fromEntries(Object.entries(entered).filter(own)), billing_details: details };
  }

  /** The payment element: a tab for each payment method that Stripe offers. It shows its own validation errors. */
  class PaymentElement extends CardElement {
    constructor(options) {
      super(options);
      this._type = 'payment';
      this._method = 'card';
      this._root.querySelector('style').textContent += PAYMENT_CSS + BANK_CSS;
      for (const input of [this._expiry, this._cvc]) {
        const field = document.createElement('span'); // each label is above its field; the two fields are side by side
        input.before(field);
        field.append(field.previousElementSibling, input);
      }
      this._expiry.labels[0].textContent = 'Expiration date';
      this._cvc.labels[0].textContent = 'Security code';
      this._wrong = document.createElement('p');
      this._wrong.className = 'wrong';
      this._wrong.setAttribute('role', 'alert');
      this._root.querySelector('.card').append(this._wrong);
      this._tabs = document.createElement('div');
      this._tabs.className = 'tabs';
      this._tabs.setAttribute('role', 'tablist');
      this._tabs.hidden = true;
      this._root.querySelector('.card').before(this._tabs);
      this._forms = { card: this._root.querySelector('.card') };
    }

    /** Show these types, each behind a tab; a single one has none. Wallets are cards: the type is the same. */
    _offer(offered) {
      const wallets = offered.includes('card') && offered.length > 1 ? Object.keys(WALLETS) : [];
      const types = [...offered, ...wallets];
      this._tabs.replaceChildren(...types.map((type) => this._tab(type)));
      this._tabs.hidden = types.length < 2;
      this._choose(types.includes(this._method) ? this._method : types[0]);
    }

    _tab(type) {
      const tab = document.createElement('button');
      tab.type = 'button';
      tab.id = `${type}-tab`;
      tab.setAttribute('role', 'tab');
      tab.textContent = type === 'card' ? 'Card' : BANKS[type].label;
      tab.addEventListener('click', () => this._choose(type));
      return tab;
    }

    _bankForm(type, { fields, text }) {
      const form = document.createElement('div');
      form.className = 'bank';
      for (const [name, label] of Object.entries(fields)) {
        const field = document.createElement('label');
        const input = document.createElement('input');
        input.name = name;
        input.addEventListener('input', () => this._changed());
        field.append(label, input);
        form.append(field);
      }
      const sentence = document.createElement('p');
      sentence.textContent = text;
      const wrong = document.createElement('p');
      wrong.className = 'wrong';
      wrong.setAttribute('role', 'alert');
      form.append(sentence, wrong);
      this._root.append(form);
      return form;
    }

    _choose(type) {
      this._method = type;
      this._forms[type] ??= this._bankForm(type, BANKS[type]);
      for (const tab of this._tabs.children) tab.setAttribute('aria-selected', String(tab.id === `${type}-tab`));
      for (const [name, form] of Object.entries(this._forms)) form.hidden = name !== type;
      this._changed();
    }

    _entered() {
      const inputs = this._forms[this._method].querySelectorAll('input');
      return Object.fromEntries([...inputs].map((input) => [input.name, input.value.trim()]));
    }

    /** `payment_method_data` of the chosen method, or a validation error, which is shown. */
    _data(billing = {}) {
      if (this._method === 'card') {
        const { card, error } = this._card();
        return error ? { error } : { data: { type: 'card', card, billing_details: billing } };
      }
      const entered = this._entered();
      const missing = Object.keys(entered).find((name) => !entered[name]);
      const message = missing ? `Your ${BANKS[this._method].fields[missing].toLowerCase()} is incomplete.` : '';
      this._forms[this._method].querySelector('.wrong').textContent = message;
      if (missing) return { error: { type: 'validation_error', code: `incomplete_${missing}`, message } };
      if (WALLETS[this._method]) return { data: walletData(this._method, billing) };
      return { data: enteredData(this._method, entered, billing) };
    }

    _state() {
      if (this._method !== 'card' && this._forms) {
        const values = Object.values(this._entered());
        const complete = values.every(Boolean);
        const empty = values.length > 0 && !values.some(Boolean);
        return { elementType: 'payment', empty, complete, collapsed: false, value: { type: this._method } };
      }
      const { empty, complete } = super._state();
      return { elementType: 'payment', empty, complete, collapsed: false, value: { type: 'card' } };
    }

    _render() {
      super._render();
      if (!this._wrong) return; // not built yet
      const wrong = this._inputs.map((input) => this._errorOf(input, this._touched.has(input))).find(Boolean);
      const words = wrong ? MESSAGES[wrong] : '';
      if (this._wrong.textContent !== words) this._wrong.textContent = words;
    }
  }

  const EXPRESS_CSS = `
    .express { display: flex; flex-wrap: wrap; gap: .5rem; }
    .express button { flex: 1 1 8rem; font: 600 1em/1 system-ui, sans-serif; padding: .9rem .75rem; border: 0; border-radius: .35rem;
      color: Canvas; background: CanvasText; cursor: pointer; }
    .express button:focus-visible { outline: 3px solid color-mix(in srgb, currentColor 40%, transparent); outline-offset: 2px; }`;
  const EXPRESS = { apple_pay: 'Apple Pay', google_pay: 'Google Pay', link: 'Link', amazon_pay: 'Amazon Pay' };
  /** Whom the wallet says that pays. */
  const WALLET_OWNER = { name: 'Jenny Rosen', email: 'jenny@example.com' };

  /** The express checkout element: one button for each wallet. https://docs.stripe.com/js/elements_object/express_checkout_element_confirm_event */
  class ExpressCheckoutElement extends CardElement {
    constructor(options) {
      super(options);
      this._type = 'expressCheckout';
      this._root.innerHTML = `<style>${EXPRESS_CSS}</style><div class="express"></div>`;
      this._chosen = null;
    }

    mount(target) {
      const ready = this._emit;
      this._emit = () => {}; // "ready" says which wallets there are, which is known later
      super.mount(target);
      queueMicrotask(() => { this._emit = ready; });
    }

    _offer(types) {
      const wallets = types.includes('card') ? ['apple_pay', 'google_pay'] : [];
      const offered = Object.keys(EXPRESS).filter((name) => wallets.includes(name) || types.includes(name));
      this._root.querySelector('.express').replaceChildren(...offered.map((name) => this._express(name)));
      const known = { applePay: 'apple_pay', googlePay: 'google_pay', link: 'link', amazonPay: 'amazon_pay' };
      const available = Object.fromEntries(Object.entries(known).map(([key, name]) => [key, offered.includes(name)]));
      queueMicrotask(() => this._emit('ready', { elementType: this._type, availablePaymentMethods: offered.length ? available : undefined }));
    }

    _express(name) {
      const pressed = document.createElement('button');
      pressed.type = 'button';
      pressed.textContent = EXPRESS[name];
      pressed.addEventListener('click', () => {
        const open = () => this._confirm(name);
        if (this._listeners.get('click')?.size) this._emit('click', { elementType: this._type, expressPaymentType: name, resolve: open });
        else open();
      });
      return pressed;
    }

    _confirm(name) {
      this._chosen = name;
      const billing = { ...WALLET_OWNER };
      this._emit('confirm', { elementType: this._type, expressPaymentType: name, billingDetails: billing, paymentFailed: () => {} });
    }

    _data(billing = {}) {
      const details = { ...WALLET_OWNER, ...billing };
      if (WALLETS[this._chosen]) return { data: walletData(this._chosen, details) };
      return { data: { type: this._chosen, billing_details: details } };
    }

    get _method() {
      return this._chosen;
    }

    _changed() {}
    _applyOptions() {}
    _listen() {}
    _render() {}
    _mark() {}
  }

  const ELEMENTS = { card: CardElement, payment: PaymentElement, expressCheckout: ExpressCheckoutElement };

  /**
   * The result of `stripe.elements()`: at most one element of each type, and what they are for: an intent by its
   * `clientSecret`, or (deferred) `mode`, `amount` and `currency` before there is one.
   */
  class Elements {
    constructor(stripe, options) {
      this._stripe = stripe;
      this._options = options;
      this._secret = options.clientSecret;
      this._deferred = Boolean(options.mode);
      this._submitted = false;
      this._made = new Map();
      if (!this._deferred) return;
      if (this._secret) throw new Error('Invalid value for elements(): clientSecret and mode cannot be combined.');
      if (!options.currency) throw new Error('Invalid value for elements(): currency is required with mode.');
      if (options.mode !== 'setup' && !(options.amount > 0)) {
        throw new Error(`Invalid value for elements(): amount must be greater than 0 when mode is "${options.mode}".`);
      }
    }

    create(type, options) {
      const Kind = ELEMENTS[type];
      if (!Kind) throw new Error(`The sandbox supports only the elements card, payment and expressCheckout, not "${type}".`);
      if (this._made.has(type)) throw new Error(`Can only create one Element of type ${type} through elements.create().`);
      if (type !== 'card' && !this._secret && !this._deferred) {
        throw new Error('In order to create a payment element, you must pass a clientSecret or mode when creating the Elements group.');
      }
      const element = new Kind(options);
      this._made.set(type, element);
      const destroy = element.destroy.bind(element);
      element.destroy = () => {
        this._made.delete(type);
        destroy();
      };
      if (type !== 'card') this._load(element);
      return element;
    }

    /** By its type, or by its component of @stripe/react-stripe-js: https://docs.stripe.com/sdks/stripejs-react */
    getElement(type) {
      return this._made.get(type?.__elementType ?? type) ?? null;
    }

    /** Change the amount or currency of a deferred group. */
    update(options) {
      this._options = { ...this._options, ...options };
      this._submitted = false;
      for (const element of [this.getElement('payment'), this.getElement('expressCheckout')]) {
        if (element && this._deferred) this._load(element);
      }
    }

    /** Validates the form and shows its errors. */
    async submit() {
      const element = this._payment();
      const { error } = element._data();
      this._submitted = !error;
      return error ? { error } : { selectedPaymentMethod: element._method };
    }

    async _load(element) {
      const { mode, amount, currency, paymentMethodTypes, setupFutureUsage } = this._options;
      const deferred = { mode, amount, currency, payment_method_types: paymentMethodTypes, setup_future_usage: setupFutureUsage };
      const wanted = this._deferred ? { deferred_intent: deferred } : { client_secret: this._secret };
      const answer = await this._stripe._call('GET', `/v1/elements/sessions?${formOf(wanted)}`);
      const types = answer.payment_method_preference?.ordered_payment_method_types;
      if (types) element._offer(types);
      else element._emit('loaderror', { elementType: 'payment', error: answer.error });
    }

    /** What the customer pays with: the wallet whose button they pressed, else the payment element. */
    _payment() {
      const express = this.getElement('expressCheckout');
      if (express?._chosen) return express;
      const element = this.getElement('payment');
      if (!element?._container) throw new Error('elements should have a mounted Payment Element.');
      return element;
    }
  }

  // ------------------------------------------------------------------------------------------------------- the bank

  const DIALOG_CSS = `
    dialog { inline-size: min(26rem, calc(100vw - 2rem)); block-size: min(30rem, calc(100vh - 2rem)); padding: 0; border: 0;
      border-radius: 12px; overflow: hidden; background: Canvas; box-shadow: 0 1.5rem 4rem rgb(0 0 0 / .35); }
    dialog::backdrop { background: rgb(10 14 20 / .55); }
    iframe { display: block; inline-size: 100%; block-size: 100%; border: 0; }`;

  /** Shows the bank's page until it is answered. Closing it (Escape) counts as a failed authentication. */
  function challenge(intentId) {
    const host = document.createElement('div');
    const root = host.attachShadow({ mode: 'open' });
    root.innerHTML = `<style>${DIALOG_CSS}</style>
      <dialog aria-label="Your bank asks you to confirm this payment"><iframe title="3-D Secure check by your bank"></iframe></dialog>`;
    const dialog = root.querySelector('dialog');
    const frame = root.querySelector('iframe');
    const returnTo = document.activeElement;
    frame.src = `${BASE}/challenge/${encodeURIComponent(intentId)}`;
    document.body.append(host);
    dialog.showModal();
    return new Promise((resolve) => {
      const close = () => {
        removeEventListener('message', onMessage);
        dialog.close();
        host.remove();
        returnTo?.focus?.();
        resolve();
      };
      const onMessage = (event) => {
        if (event.source !== frame.contentWindow || event.origin !== BASE) return;
        if (event.data?.type === 'sandbox-3ds-done') close();
      };
      addEventListener('message', onMessage);
      frame.addEventListener('load', () => frame.focus());
      dialog.addEventListener('cancel', (event) => {
        event.preventDefault();
        giveUp(intentId).finally(close);
      });
    });
  }

  function giveUp(intentId) {
    const kind = intentId.startsWith('seti_') ? 'setup_intents' : 'payment_intents';
    return fetch(`${BASE}/sandbox/${kind}/${encodeURIComponent(intentId)}/authenticate`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ outcome: 'fail' }),
    }).catch(() => undefined);
  }

  /** Shows that there is a voucher, with a link to it, until it is closed: it is paid later. */
  function showVoucher(address) {
    const host = document.createElement('div');
    const root = host.attachShadow({ mode: 'open' });
    root.innerHTML = `<style>${DIALOG_CSS} dialog { block-size: auto; padding: 1.5rem; } p { margin: 0 0 1rem; }</style>
      <dialog aria-label="Your voucher"><p>Your voucher is ready. Pay it at a bank or in a shop.</p>
      <p><a target="_blank" rel="noopener">Open the voucher</a></p><form method="dialog"><button>Close</button></form></dialog>`;
    const dialog = root.querySelector('dialog');
    root.querySelector('a').href = address;
    document.body.append(host);
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener('close', () => {
        host.remove();
        resolve();
      });
    });
  }

  // ------------------------------------------------------------------------------------------------------------ the API

  /** Encodes nested objects as Stripe's bracketed form fields. */
  function formOf(value, prefix = '', form = new URLSearchParams()) {
    for (const [key, inner] of Object.entries(value)) {
      const name = prefix ? `${prefix}[${key}]` : key;
      if (inner === undefined || inner === null) continue;
      if (typeof inner === 'object') formOf(inner, name, form);
      else form.append(name, String(inner));
    }
    return form;
  }

  const KINDS = {
    pi: { path: 'payment_intents', object: 'payment_intent', result: 'paymentIntent', failure: 'last_payment_error' },
    seti: { path: 'setup_intents', object: 'setup_intent', result: 'setupIntent', failure: 'last_setup_error' },
  };

  function parseSecret(clientSecret, prefix, method) {
    if (typeof clientSecret !== 'string' || !new RegExp(`^${prefix}_[A-Za-z0-9]+_secret_[A-Za-z0-9]+$`).test(clientSecret)) {
      throw new Error(`Invalid value for stripe.${method} intent secret: value should be a client secret of the form `
        + `${prefix}_xxx_secret_xxx. You specified: ${clientSecret}.`);
    }
    return clientSecret.split('_secret_')[0];
  }

  class StripeSandbox {
    constructor(publishableKey) {
      if (!/^pk_test_/.test(publishableKey ?? '')) {
        throw new Error('The sandbox accepts only publishable test keys (pk_test_...).');
      }
      this._key = publishableKey;
    }

    elements(options = {}) {
      return new Elements(this, options);
    }

    /**
     * Confirms with what the payment element has. Cards and bank debits need no redirect, so with "if_required" the page
     * stays; iDEAL and Bancontact always leave for the bank's page, which comes back to `return_url`.
     */
    async confirmPayment({ elements, clientSecret, confirmParams = {}, redirect = 'always' }) {
      const secret = elements?._secret ?? clientSecret;
      const id = parseSecret(secret, 'pi', 'confirmPayment');
      const { return_url: returnTo, payment_method_data: more } = confirmParams;
      if (redirect === 'always' && !returnTo) {
        throw new Error('You must provide a return_url in confirmParams, or redirect: "if_required".');
      }
      const wrong = await this._refuseDeferred(elements, id, secret);
      if (wrong) return wrong;
      const chosen = elements ? elements._payment()._data(more?.billing_details) : {};
      if (chosen.error) return { error: chosen.error };
      const body = { client_secret: secret, use_stripe_sdk: true, payment_method_data: chosen.data, return_url: returnTo };
      const intent = await this._call('POST', `/v1/payment_intents/${id}/confirm`, body);
      if (intent.error) return intent;
      const result = intent.status === 'requires_action' ? await this._act(KINDS.pi, id, secret, intent) : { paymentIntent: intent };
      if (result.error || redirect !== 'always') return result;
      const there = new URL(returnTo);
      there.searchParams.set('payment_intent', id);
      there.searchParams.set('payment_intent_client_secret', secret);
      const { status } = result.paymentIntent; // of a voucher, it still requires action
      there.searchParams.set('redirect_status', status === 'processing' || status === 'requires_action' ? 'pending' : status);
      location.assign(there);
      return new Promise(() => {}); // the browser is navigating away
    }

    /** In deferred mode: submit() comes first, and the intent has the amount and currency that the form was made for. */
    async _refuseDeferred(elements, id, secret) {
      if (!elements?._deferred) return null;
      if (!elements._submitted) {
        throw new Error('elements.submit() must be called before stripe.confirmPayment(): call it as soon as your customer presses pay.');
      }
      const { error, paymentIntent } = await this._read(KINDS.pi, id, secret);
      if (error) return { error };
      for (const name of ['amount', 'currency']) {
        if (elements._options[name] === paymentIntent[name]) continue;
        const message = `The ${name} of the PaymentIntent (${paymentIntent[name]}) does not match the one of Elements (${elements._options[name]}).`;
        return { error: { type: 'invalid_request_error', message } };
      }
      return null;
    }

    confirmCardPayment(clientSecret, data = {}, options = {}) {
      const id = parseSecret(clientSecret, 'pi', 'confirmCardPayment');
      return this._confirm(KINDS.pi, id, clientSecret, data, options);
    }

    confirmCardSetup(clientSecret, data = {}, options = {}) {
      const id = parseSecret(clientSecret, 'seti', 'confirmCardSetup');
      return this._confirm(KINDS.seti, id, clientSecret, data, options);
    }

    async retrievePaymentIntent(clientSecret) {
      return this._read(KINDS.pi, parseSecret(clientSecret, 'pi', 'retrievePaymentIntent'), clientSecret);
    }

    async retrieveSetupIntent(clientSecret) {
      return this._read(KINDS.seti, parseSecret(clientSecret, 'seti', 'retrieveSetupIntent'), clientSecret);
    }

    handleCardAction(clientSecret) {
      const id = parseSecret(clientSecret, 'pi', 'handleCardAction');
      return this._act(KINDS.pi, id, clientSecret);
    }

    handleNextAction({ clientSecret }) {
      const kind = clientSecret?.startsWith('seti_') ? KINDS.seti : KINDS.pi;
      return this._act(kind, parseSecret(clientSecret, kind === KINDS.pi ? 'pi' : 'seti', 'handleNextAction'), clientSecret);
    }

    /** Only there: `@stripe/react-stripe-js` takes an object without it for something else than Stripe.js. */
    async createToken() {
      throw new Error('The sandbox does not imitate createToken(). Use confirmCardPayment() or confirmPayment().');
    }

    async createPaymentMethod({ type, card, billing_details: billing }) {
      const typed = card instanceof CardElement ? card._card() : { card };
      if (typed.error) return { error: typed.error };
      const answer = await this._call('POST', '/v1/payment_methods', { type, card: typed.card, billing_details: billing });
      return answer.error ? answer : { paymentMethod: answer };
    }

    async _confirm(kind, id, clientSecret, { payment_method: method } = {}, { handleActions = true } = {}) {
      const chosen = paymentMethodFields(method);
      if (chosen.error) return chosen;
      const body = { client_secret: clientSecret, use_stripe_sdk: true, ...chosen };
      const intent = await this._call('POST', `/v1/${kind.path}/${id}/confirm`, body);
      if (intent.error) return intent;
      if (intent.status === 'requires_action' && handleActions) return this._act(kind, id, clientSecret, intent);
      return { [kind.result]: intent };
    }

    /** Shows the bank's check if one is required, then reads the intent again. */
    async _act(kind, id, clientSecret, known) {
      const before = known ? { [kind.result]: known } : await this._read(kind, id, clientSecret);
      if (before.error || before[kind.result].status !== 'requires_action') return before;
      const action = before[kind.result].next_action;
      if (action?.type === 'redirect_to_url') {
        location.assign(action.redirect_to_url.url);
        return new Promise(() => {}); // the browser is navigating away
      }
      const voucher = action?.[action.type]?.hosted_voucher_url;
      if (voucher) {
        await showVoucher(voucher);
        return before;
      }
      await challenge(id);
      const after = await this._read(kind, id, clientSecret);
      const failure = after[kind.result]?.[kind.failure];
      return failure ? { error: { ...failure, [kind.object]: after[kind.result] } } : after;
    }

    async _read(kind, id, clientSecret) {
      const intent = await this._call('GET', `/v1/${kind.path}/${id}?${formOf({ client_secret: clientSecret })}`);
      return intent.error ? intent : { [kind.result]: intent };
    }

    /** Returns the response's JSON; a network failure becomes an object with `error`, as in Stripe.js. */
    async _call(method, path, body) {
      try {
        const response = await fetch(BASE + path, {
          method,
          headers: { Authorization: `Bearer ${this._key}` },
          body: body && formOf(body),
        });
        return await response.json();
      } catch {
        return {
          error: {
            type: 'api_connection_error',
            message: 'We are experiencing issues connecting to our payments provider. You have not been charged. '
              + 'Please check your internet connection and try again.',
          },
        };
      }
    }
  }

  /** The request's fields for a payment method: an id, a card element, or none (keep the intent's own). */
  function paymentMethodFields(method) {
    if (method === undefined) return {};
    if (typeof method === 'string') return { payment_method: method };
    if (!(method?.card instanceof CardElement)) {
      throw new Error('Invalid value for payment_method: a payment method id, or {card: the card element} is expected.');
    }
    const typed = method.card._card();
    if (typed.error) return { error: typed.error };
    return { payment_method_data: { type: 'card', card: typed.card, billing_details: method.billing_details } };
  }

  /** @param {string} publishableKey @returns {StripeSandbox} */
  window.Stripe = function Stripe(publishableKey) {
    return new StripeSandbox(publishableKey);
  };
  window.Stripe.version = 'endive'; // what `loadStripe()` of @stripe/stripe-js compares with its own
  window.Stripe.sandbox = BASE;
})();
