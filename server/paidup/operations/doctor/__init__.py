"""`paidup doctor`: checks of the settings, of Stripe, of the database and of the network."""
