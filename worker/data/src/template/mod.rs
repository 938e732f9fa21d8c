//! Chat templates: the model's own Jinja, rendered as transformers renders it, with the assistant's
//! text marked.
//!
//! If a template has `{% generation %}` blocks, they mark the assistant's text. If it has none,
//! [`turns`] finds each turn by rendering.
//!
//! Templates that write the date of today (`strftime_now`) are given a fixed one: training data
//! that change with the day cannot be repeated, and the model would be asked another question than
//! the one that it was trained on.

mod answers;
mod capitals;
mod comparable;
mod compare;
mod compiled;
mod cycler;
mod differ;
mod edges;
mod fault;
mod fields;
mod forms;
mod given;
mod held;
mod json;
mod letters;
mod made_ids;
mod marks;
mod markup;
mod methods;
mod named;
mod numbers;
mod objects;
mod ordered;
mod owners;
mod pens;
mod places;
mod printf;
mod python;
mod range;
mod reasoning;
mod refusals;
mod render;
mod replaced;
mod repr;
mod source;
mod stage;
mod stand_in;
mod texts;
mod turns;
mod unwritten;
mod walk;
mod widths;

pub use compiled::{ChatTemplate, SpecialTokens};
pub use fault::{Loss, Lost, TemplateError, Unwritten, WayOut};
pub use named::{Lacking, Templates};
pub use render::Rendered;
