"""The ledger: grants, spends, reservations, reversals and their audit."""
