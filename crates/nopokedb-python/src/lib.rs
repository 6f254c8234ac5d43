//! Python bindings: translation only, no logic.
