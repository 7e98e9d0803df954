"""Experts: they read content and add context (speech), find things (grounding), parse nouns."""
