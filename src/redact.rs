//! The value-keyed redactor.
