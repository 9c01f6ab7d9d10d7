//! Every find in a text: as it stands, and with its escapes taken off, layer by layer. In terms of the text as it stands.

use std::{cmp::Reverse, collections::HashSet, ops::Range};

use super::{
    Form,
    engine::{Engine, Found, Keys, LONGEST, Owner},
    shapes,
    stream::{Gathered, Prefixes, within_last_line},
    variants::FLOOR,
    views::{Layer, Marks, Newline, View},
};

/// Layers of backslashes, of percent-encoding and of entities that are taken off a text in search of a value.
const BACKSLASH_LAYERS: usize = 4;
const PERCENT_LAYERS: usize = 2;
const ENTITY_LAYERS: usize = 2;

/// What is looked for.
#[derive(Clone, Copy)]
pub(super) struct Finder<'e> {
    pub engine: &'e Engine,
    pub keys: &'e Keys,
    pub shapes: bool,
    /// Set where the text will go on.
    pub goes_on: Option<&'e Held>,
}

/// How a stream tells what it must hold back.
pub(super) enum Held {
    /// By the patterns: only what may be the start of one.
    Prefixes(Prefixes),
    /// By their length.
    Longest,
}

impl Held {
    /// Where the end of a text starts that must be held back.
    fn from(&self, text: &[u8]) -> usize {
        match self {
            Self::Longest => within_last_line(text, LONGEST),
            Self::Prefixes(known) => known.held_from(text),
        }
    }

    /// With what was gathered and without some owners.
    pub fn changed(&self, mut gathered: Gathered, without: &HashSet<u64>) -> Self {
        match self {
            Self::Longest => Self::Longest,
            Self::Prefixes(known) => {
                gathered.add_all(known, without);
                gathered.sorted().map_or(Self::Longest, Self::Prefixes)
            }
        }
    }
}

/// What came of looking through a text.
pub(super) struct Seen<'e> {
    pub found: Vec<Found<'e>>,
    /// Nothing that is found once the text goes on starts before this, or it overlaps what is found already.
    pub held_from: usize,
    /// From here on the text must be looked at again once it goes on, also what is passed on of it.
    pub kept_from: usize,
}

impl<'e> Finder<'e> {
    pub fn find(&self, text: &[u8]) -> Seen<'e> {
        let mut seen = Seen { found: Vec::new(), held_from: text.len(), kept_from: text.len() };
        let mut layers: Vec<View> = Vec::new();
        loop {
            let here = layers.last().map_or(text, View::bytes);
            // What the source of a view goes on with, the view may go on with.
            let newline = |at| newline_of(&layers, at);
            let marks = Marks::of(here);
            let below = (layers.len() < BACKSLASH_LAYERS)
                .then(|| View::of(Layer::Backslash, here, marks, self.goes_on.is_some(), &newline))
                .flatten();
            let mut at_layer = Seen { found: Vec::new(), held_from: here.len(), kept_from: here.len() };
            self.look(here, &mut at_layer);
            if self.shapes {
                shapes::find(here, self.goes_on.is_some(), &mut at_layer);
            }
            self.look_through(Layer::Percent, PERCENT_LAYERS, (here, marks), &newline, &mut at_layer);
            self.look_through(Layer::Entity, ENTITY_LAYERS, (here, marks), &newline, &mut at_layer);
            self.look_through(Layer::Wrapped, 1, (here, marks), &newline, &mut at_layer);
            let first = layers.first().or(below.as_ref());
            let down = |range| layers.iter().rev().fold(range, |range: Range<usize>, view| view.source(range));
            // In the text itself an escape is one; what looks like one further down may be the value's own backslash.
            let whole = |range| first.map_or_else(|| Range::clone(&range), |view| view.whole(Range::clone(&range)));
            for Found { range, owner, form } in at_layer.found {
                let form = form.seen_through(!layers.is_empty(), Form::Escaped);
                seen.found.push(Found { range: whole(down(range)), owner, form });
            }
            // The end of a view is where its source goes on: before an escape that is not complete.
            let outside = |at| layers.iter().rev().fold(at, |at, view: &View| view.source_of(at).start);
            let held = outside(at_layer.held_from);
            seen.held_from = seen.held_from.min(whole(held..held).start);
            if at_layer.kept_from < here.len() {
                seen.kept_from = seen.kept_from.min(outside(at_layer.kept_from));
            }
            match below {
                Some(view) => layers.push(view),
                None => return seen,
            }
        }
    }

    fn look(&self, text: &[u8], seen: &mut Seen<'e>) {
        self.engine.scan(self.keys, text, &mut seen.found);
        if let Some(held) = self.goes_on {
            seen.held_from = seen.held_from.min(held.from(text));
        }
    }

    /// Looks through up to `layers` layers of one kind.
    fn look_through(
        &self,
        layer: Layer,
        layers: usize,
        (text, marks): (&[u8], Marks),
        newline: &dyn Fn(usize) -> Newline,
        seen: &mut Seen<'e>,
    ) {
        let Some(view) = View::of(layer, text, marks, self.goes_on.is_some(), newline) else { return };
        let mut inside = Seen { found: Vec::new(), held_from: view.bytes().len(), kept_from: view.bytes().len() };
        self.look(view.bytes(), &mut inside);
        if layers > 1 {
            self.look_through(layer, layers - 1, (view.bytes(), Marks::of(view.bytes())), newline, &mut inside);
        }
        let called = match layer {
            Layer::Percent => Form::Percent,
            Layer::Wrapped => Form::Base64,
            Layer::Backslash | Layer::Entity => Form::Escaped,
        };
        seen.found.extend(inside.found.into_iter().map(|one| Found {
            range: view.source(one.range),
            owner: one.owner,
            form: one.form.seen_through(true, called),
        }));
        if self.goes_on.is_none() {
            return;
        }
        let start = view.source_of(inside.held_from).start;
        // A line that is complete may be passed on, unless so much of a value stands at its end that this is no chance. Otherwise
        // the end is kept, so that the rest of a value is known by it.
        if layer == Layer::Wrapped && view.bytes().len() - inside.held_from < FLOOR {
            seen.kept_from = seen.kept_from.min(start);
        } else {
            seen.held_from = seen.held_from.min(start);
        }
    }
}

/// Where a newline of the innermost view is from.
fn newline_of(layers: &[View], mut at: usize) -> Newline {
    for view in layers.iter().rev() {
        if let Some(kind) = view.newline(at) {
            return kind;
        }
        at = view.source_of(at).start;
    }
    Newline::Text
}

/// Finds that overlap: to pick the longest of them would leave the end of another in the clear.
pub(super) struct Merged<'e> {
    pub range: Range<usize>,
    /// Of the longest find among those that may be named.
    pub owner: &'e Owner,
    pub parts: Vec<Found<'e>>,
}

/// Makes one of finds that overlap, and of pieces of one secret that touch.
pub(super) fn union<'e>(mut found: Vec<Found<'e>>, named: &dyn Fn(&Found<'_>) -> bool) -> Vec<Merged<'e>> {
    found.sort_by_key(|one| (one.range.start, Reverse(one.range.end), one.owner.id));
    let mut all: Vec<Merged<'e>> = Vec::new();
    for one in found {
        match all.last_mut() {
            Some(last)
                if one.range.start < last.range.end
                    || (one.range.start == last.range.end && one.owner.name == last.owner.name) =>
            {
                last.range.end = last.range.end.max(one.range.end);
                last.parts.push(one);
            }
            _ => all.push(Merged { range: one.range.clone(), owner: one.owner, parts: vec![one] }),
        }
    }
    for merged in &mut all {
        if let Some(longest) = merged.parts.iter().max_by_key(|one| (named(one), one.range.len(), Reverse(one.owner.id))) {
            merged.owner = longest.owner;
        }
    }
    all
}
