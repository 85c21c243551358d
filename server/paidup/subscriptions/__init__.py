"""Checkout, plan changes, and what each subscription is now, as Stripe says it."""
