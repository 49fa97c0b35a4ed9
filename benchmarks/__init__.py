"""How fast p2pd is, next to what people use now: `make bench`; see docs/performance.md."""
