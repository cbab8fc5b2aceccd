"""How fast a bundle is on this machine: what is measured, how, and what comes out."""
