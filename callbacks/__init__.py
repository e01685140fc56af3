"""Everything that hears bluesky documents."""
