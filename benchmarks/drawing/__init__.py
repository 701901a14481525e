"""How fast a drawing is made, in how much memory, beside a plain loop."""
