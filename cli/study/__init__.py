"""`drift study`: a grid of methods and seeds over shared rollouts, with paired statistics and figures."""
