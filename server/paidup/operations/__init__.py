"""What operators run: doctor, explain, backfill and the set-up of Stripe."""
