"""From what Stripe says of a payment to its credits: verification, claims, settlement, refunds, timeline."""
