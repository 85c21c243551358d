"""From what Stripe says of a payment to its credits: verification, settlement, refunds, the timeline."""
