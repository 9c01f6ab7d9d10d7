//! The blast radius: if this tool is compromised, what can be reached; if this key leaked, who has it, and what must change.
//!
//! [`Facts`] are what is known: policy, who holds what, what was used. A [`Graph`] is made of them, questions are asked of it, and each
//! answer is a [`Document`], the JSON of which has a version. Text, pages and pictures are made from that document and from nothing
//! else, so they cannot disagree.
//!
//! Pure: no runtime, no clock (time is an argument), no value of any secret. `docs/blast-radius.md` has the model and the formula.

mod answer;
mod compare;
mod document;
mod exclusions;
mod facts;
mod findings;
mod graph;
mod moment;
mod page;
mod picture;
mod pseudonym;
mod sarif;
mod score;
mod suggest;
mod text;
mod usage;
mod walk;
mod weights;
mod wire;

pub use answer::{Answer, Overview, SecretAnswer, SystemAnswer, ToolAnswer, ToolLine, Unknown};
pub use compare::{Difference, ToolChange};
pub use document::{Detail, Document, Edge, EdgeKind, NodeId, Question, SCHEMA_VERSION, Sure, View};
pub use exclusions::{Exclusion, Exclusions};
pub use facts::{Channel, Facts, GrantFact, HeldFact, SecretFact, SessionFact, SourceFact, ToolFact, Usage, UseFact};
pub use findings::{Finding, Level, NotJudged, RULES, Rule, not_judged};
pub use graph::Graph;
pub use moment::Moment;
pub use page::html;
pub use picture::{dot, mermaid, opengraph, svg};
pub use pseudonym::Pseudonyms;
pub use sarif::sarif;
pub use score::{Percent, Range, Score};
pub use suggest::{NoSuggestion, Suggestion, suggest};
pub use text::findings as findings_text;
pub use weights::Weights;
