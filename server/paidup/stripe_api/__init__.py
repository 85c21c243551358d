"""The only package that talks to Stripe: gateway, wire types, rate limiter, prices."""
