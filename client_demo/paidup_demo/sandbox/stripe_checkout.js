/**
 * The Checkout part of the sandbox's Stripe.js, appended to stripe.js: createEmbeddedCheckoutPage.
 *
 * https://docs.stripe.com/js/embedded_checkout/create. Since 2026-03-25.dahlia the former name throws.
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

  const stripe = window.Stripe;
  window.Stripe = function Stripe(publishableKey) {
    return Object.assign(stripe(publishableKey), {
      createEmbeddedCheckoutPage: create,
      initEmbeddedCheckout() {
        throw new IntegrationError('stripe.initEmbeddedCheckout() has been renamed to createEmbeddedCheckoutPage().');
      },
    });
  };
  window.Stripe.sandbox = BASE;
})();
