"""How good, how heavy, good enough? Features, distances, motion, cost, gates."""
