//! Proposals for evidence as whole tables.
