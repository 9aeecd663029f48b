//! Placeholder: the typed client of the worker link.
