"""How weights move: seeds, data order, learners, the loop and its checkpoints (the only door to accelerate)."""
