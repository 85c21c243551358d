/**
 * The Checkout part of the sandbox's Stripe.js, appended to stripe.js: createEmbeddedCheckoutPage, and
 * initCheckoutElementsSdk for sessions with `ui_mode: elements`.
 *
 * https://docs.stripe.com/js/embedded_checkout/create and https://docs.stripe.com/js/custom_checkout/init. Since
 * 2026-03-25.dahlia the former names throw.
 */
(() => {
  'use strict';

  const BASE = new URL(document.currentScript.src).origin;
  const SECRET = /^(cs_test_[A-Za-z0-9]+)_secret_[A-Za-z0-9]+$/;
  let mounted = null;

  class IntegrationError extends Error {
    constructor(message) {
      super(message);
      this.name = 'IntegrationError';
    }
  }

  class EmbeddedCheckoutPage {
    constructor(secret, onComplete) {
      this._onComplete = onComplete;
      this._frame = document.createElement('iframe');
      this._frame.title = 'Checkout';
      this._frame.name = 'embedded-checkout';
      this._frame.allow = 'payment *';
      Object.assign(this._frame.style, { inlineSize: '100%', blockSize: '44rem', border: '0' });
      this._frame.src = `${BASE}/c/pay/${SECRET.exec(secret)[1]}?secret=${encodeURIComponent(secret)}`;
      this._listener = (event) => this._heard(event);
    }

    mount(target) {
      if (this._destroyed) throw new IntegrationError('This Checkout instance was destroyed.');
      const node = typeof target === 'string' ? document.querySelector(target) : target;
      if (!node) throw new IntegrationError(`The selector you specified (${target}) applies to no DOM elements that are currently on the page.`);
      addEventListener('message', this._listener);
      node.append(this._frame);
    }

    unmount() {
      removeEventListener('message', this._listener);
      this._frame.remove();
    }

    destroy() {
      this.unmount();
      this._destroyed = true;
      if (mounted === this) mounted = null;
    }

    /** The session is complete: leave for its return_url, or tell the page. */
    _heard(event) {
      if (event.source !== this._frame.contentWindow || event.origin !== BASE) return;
      if (event.data?.type !== 'sandbox-checkout') return;
      if (event.data.to) location.assign(event.data.to);
      else if (event.data.complete) this._onComplete?.();
    }
  }

  async function create({ clientSecret, fetchClientSecret, onComplete } = {}) {
    if (mounted) throw new IntegrationError('You cannot have multiple Embedded Checkout objects.');
    const secret = clientSecret ?? await fetchClientSecret?.();
    if (!SECRET.test(secret ?? '')) {
      throw new IntegrationError('Invalid client secret: the client_secret of a Checkout Session is expected.');
    }
    mounted = new EmbeddedCheckoutPage(secret, onComplete);
    return mounted;
  }

  // -------------------------------------------------------------------------------- elements of the shop's own page

  /** An object that notes that its `amount` was read: what is confirmed must have been shown. */
  function amountOf(minor, currency, read = () => {}) {
    const amount = new Intl.NumberFormat('en', { style: 'currency', currency }).format(minor / 100);
    return { minorUnitsAmount: minor, get amount() { read(); return amount; } };
  }

  class CheckoutElements {
    constructor(stripe, { clientSecret }) {
      this._stripe = stripe;
      this._secret = Promise.resolve(clientSecret);
      this._handlers = [];
      this._shown = false;
      this._email = null;
    }

    on(event, handler) {
      if (event === 'change') this._handlers.push(handler);
    }

    createPaymentElement(options) {
      if (this._element) throw new IntegrationError('Can only create one Payment Element.');
      const elements = this._stripe.elements({ clientSecret: 'of a session' });
      elements._load = async () => {}; // the session says which payment methods there are
      this._element = elements.create('payment', options);
      if (this._data) this._element._offer(this._data.payment_method_types);
      return this._element;
    }

    getPaymentElement() {
      return this._element ?? null;
    }

    async loadActions() {
      const secret = await this._secret;
      if (!SECRET.test(secret ?? '')) throw new IntegrationError('Invalid client secret: that of a Checkout Session is expected.');
      this._id = SECRET.exec(secret)[1];
      const loaded = await this._call('GET', '', {});
      if (loaded.type === 'error') return loaded;
      const actions = {
        getSession: () => this._session,
        updateEmail: async (email) => this._updateEmail(email),
        applyPromotionCode: (code) => this._call('POST', '', { promotion_code: code }, 'invalidCode'),
        confirm: (args) => this._confirm(args),
      };
      return { type: 'success', actions };
    }

    _updateEmail(email) {
      if (email && !/^[^@\s]+@[^@\s.]+(\.[^@\s.]+)+$/.test(email)) {
        return { type: 'error', error: { code: 'invalidEmail', message: 'Your email is invalid.' } };
      }
      this._email = email;
      return this._took(this._data);
    }

    async _confirm({ returnUrl, redirect = 'always', email } = {}) {
      if (!this._shown) {
        throw new IntegrationError('You must read total.total.amount from the session and show it before you call confirm.');
      }
      if (!returnUrl && !this._data.return_url) throw new IntegrationError('You must provide a returnUrl to confirm.');
      const chosen = this._data.amount_total ? this._typed() : {};
      if (chosen.error) return { type: 'error', error: { code: null, message: chosen.error.message } };
      const body = { email: email ?? this._email, payment_method_data: chosen.data, return_url: returnUrl };
      const result = await this._act(await this._call('POST', '/confirm', body, 'paymentFailed'));
      if (result.type === 'error' || redirect !== 'always') return result;
      location.assign(this._data.return_to);
      return new Promise(() => {}); // the browser is navigating away
    }

    _typed() {
      if (!this._element?._container) throw new IntegrationError('A mounted Payment Element is expected.');
      return this._element._data();
    }

    /** The bank's check, or its page, where there is one. */
    async _act(result) {
      if (result.type === 'error') return result;
      if (this._data.redirect_to_url) {
        location.assign(this._data.redirect_to_url);
        return new Promise(() => {});
      }
      const secret = this._data.payment_intent_client_secret;
      if (!secret) return result;
      const { error } = await this._stripe.handleCardAction(secret);
      if (error) return failure(error, 'paymentFailed');
      return this._took({ ...this._data, ...this._after(), payment_intent_client_secret: null });
    }

    /** The session that the bank has let pass is complete; its secret is no longer valid, so it cannot be read. */
    _after() {
      const to = this._data.return_url.replace('{CHECKOUT_SESSION_ID}', this._id);
      return { status: 'complete', payment_status: 'paid', return_to: to };
    }

    async _call(method, path, more, code = null) {
      const fields = { client_secret: await this._secret, ...more };
      const answer = await this._stripe._call(method, `/v1/payment_pages/${this._id}${path}${method === 'GET'
        ? `?${new URLSearchParams(fields)}` : ''}`, method === 'GET' ? undefined : fields);
      return answer.error ? failure(answer.error, code) : this._took(answer);
    }

    _took(data) {
      this._data = data;
      this._element?._offer(data.payment_method_types);
      this._session = sessionOf(data, this._email, () => { this._shown = true; });
      for (const handler of this._handlers) handler(this._session);
      return { type: 'success', session: this._session };
    }
  }

  function failure({ message, decline_code: declined }, code) {
    const more = code === 'paymentFailed' ? { paymentFailed: { declineCode: declined ?? null } } : {};
    return { type: 'error', error: { code, message, ...more } };
  }

  /** The session as Stripe.js shows it: a part of its fields. */
  function sessionOf(data, email, read) {
    const { currency } = data;
    const complete = { type: 'complete', paymentStatus: data.payment_status };
    return {
      id: data.id,
      canConfirm: data.status === 'open',
      currency,
      email: data.email ?? email,
      lineItems: data.line_items.map((line) => ({
        id: line.id, name: line.description, priceId: line.price.id, quantity: line.quantity,
        subtotal: amountOf(line.amount_subtotal, currency), total: amountOf(line.amount_total, currency),
      })),
      livemode: false,
      minorUnitsAmountDivisor: 100,
      status: data.status === 'complete' ? complete : { type: data.status },
      total: {
        discount: amountOf(data.total_details.amount_discount, currency),
        subtotal: amountOf(data.amount_subtotal, currency),
        total: amountOf(data.amount_total, currency, read),
      },
    };
  }

  const stripe = window.Stripe;
  window.Stripe = function Stripe(publishableKey) {
    const made = stripe(publishableKey);
    return Object.assign(made, {
      createEmbeddedCheckoutPage: create,
      initCheckoutElementsSdk: (options) => new CheckoutElements(made, options),
      initCheckout() {
        throw new IntegrationError('stripe.initCheckout() has been renamed to initCheckoutElementsSdk().');
      },
      initEmbeddedCheckout() {
        throw new IntegrationError('stripe.initEmbeddedCheckout() has been renamed to createEmbeddedCheckoutPage().');
      },
    });
  };
  Object.assign(window.Stripe, stripe); // its version, and this sandbox's address
})();
