"""What a text must hold, avoid or look like: demands on one sequence, as pure functions of its ids."""
