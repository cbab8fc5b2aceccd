"""Makes a bundle of a directory that another exporter wrote: looks, checks, runs once, writes a manifest."""
