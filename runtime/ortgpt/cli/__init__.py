"""The command line: parses, prints, and leaves everything else to the floors below."""
