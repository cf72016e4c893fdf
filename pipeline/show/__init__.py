"""Results in words for people, or as JSON for programs: one module for each kind of result."""
