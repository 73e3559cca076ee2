"""eventflow: workflows that survive anything. See docs/architecture.md for the floors and the laws."""
