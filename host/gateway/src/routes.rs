//! Phase 4, route: which server and tool an exposed name means.
//!
//! A prefixed name says it itself, so a call costs the same with ten tools and with twenty thousand. Only bare and
//! shortened names ask the catalogue.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use globset::{Glob, GlobSet, GlobSetBuilder};
use portcullis_model::spec::{ServerAssignment, ToolAssignment};

use crate::{catalogue::Kind, naming};

/// What an assignment shows of a server, and under which names.
#[derive(Debug)]
pub struct Exposure {
    /// Put before each name, separator included; empty for bare names.
    pub prefix: String,
    shown_tools: Globs,
    shown_prompts: Globs,
    shown_resources: Globs,
    tools: BTreeMap<String, ToolAssignment>,
}

/// What is shown of one kind.
#[derive(Debug)]
struct Globs {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Globs {
    fn new(include: &[String], exclude: &[String]) -> Result<Self, String> {
        Ok(Self { include: if include.is_empty() { None } else { Some(globs(include)?) }, exclude: globs(exclude)? })
    }

    fn shows(&self, key: &str) -> bool {
        self.include.as_ref().is_none_or(|set| set.is_match(key)) && !self.exclude.is_match(key)
    }
}

impl Exposure {
    /// Compiles an assignment.
    ///
    /// # Errors
    /// In words, for a glob that is none.
    pub fn new(assignment: &ServerAssignment) -> Result<Self, String> {
        Ok(Self {
            prefix: assignment.exposed_prefix(),
            shown_tools: Globs::new(&assignment.include, &assignment.exclude)?,
            shown_prompts: Globs::new(&assignment.prompts.include, &assignment.prompts.exclude)?,
            shown_resources: Globs::new(&assignment.resources.include, &assignment.resources.exclude)?,
            tools: assignment.tools.clone(),
        })
    }

    /// Whether something of the server is shown at all, by its own name or URI.
    pub fn shows(&self, kind: Kind, key: &str) -> bool {
        match kind {
            Kind::Tools => self.shown_tools.shows(key),
            Kind::Prompts => self.shown_prompts.shows(key),
            Kind::Resources | Kind::Templates => self.shown_resources.shows(key),
        }
    }

    /// How a tool or prompt is called towards clients.
    pub fn exposed<'a>(&self, kind: Kind, name: &'a str) -> Cow<'a, str> {
        match self.alias(kind, name) {
            Some(alias) => Cow::Owned(format!("{}{alias}", self.prefix)),
            None if self.prefix.is_empty() => Cow::Borrowed(name),
            None => Cow::Owned(naming::expose(&self.prefix, name)),
        }
    }

    /// The name that the assignment gives a tool.
    fn alias(&self, kind: Kind, name: &str) -> Option<&str> {
        self.tools.get(name).filter(|_| kind == Kind::Tools).and_then(|t| t.alias.as_deref())
    }

    /// What the assignment says about the tool.
    pub fn tool(&self, tool: &str) -> Option<&ToolAssignment> {
        self.tools.get(tool)
    }
}

fn globs(patterns: &[String]) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(|e| e.to_string())?);
    }
    set.build().map_err(|e| e.to_string())
}

/// Where a call goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// The position of the assignment in its gateway.
    pub server: usize,
    /// The tool's or prompt's own name.
    pub name: Cow<'a, str>,
}

/// What the catalogue knows of a server's tools or prompts.
pub trait Known {
    /// Which of the two.
    fn kind(&self) -> Kind;
    /// Whether the server has one of this name; none where that is not known.
    fn has(&self, server: usize, name: &str) -> Option<bool>;
    /// The server's own name of what is shown under this one, for names that say it not themselves.
    fn by_exposed(&self, server: usize, exposed: &str) -> Option<String>;
}

/// The exposed names of one gateway.
#[derive(Debug, Default)]
pub struct Routes {
    prefixes: HashMap<String, usize>,
    aliases: HashMap<String, (usize, String)>,
    bare: Vec<usize>,
}

impl Routes {
    /// Compiles the assignments of one gateway, in their order. A name that two of them want goes to the first.
    pub fn new(exposures: &[Exposure]) -> Self {
        let mut routes = Self::default();
        for (at, exposure) in exposures.iter().enumerate() {
            if exposure.prefix.is_empty() {
                routes.bare.push(at);
            } else {
                routes.prefixes.entry(exposure.prefix.clone()).or_insert(at);
            }
            for tool in exposure.tools.iter().filter(|(_, t)| t.alias.is_some()).map(|(name, _)| name) {
                routes.aliases.entry(exposure.exposed(Kind::Tools, tool).into_owned()).or_insert((at, tool.clone()));
            }
        }
        routes
    }

    /// Where a call of this exposed name goes; none where nothing is shown under it.
    pub fn find<'a>(&self, exposures: &[Exposure], exposed: &'a str, known: &impl Known) -> Option<Route<'a>> {
        let route = self.find_any(exposures, exposed, known)?;
        exposures.get(route.server)?.shows(known.kind(), &route.name).then_some(route)
    }

    fn find_any<'a>(&self, exposures: &[Exposure], exposed: &'a str, known: &impl Known) -> Option<Route<'a>> {
        let kind = known.kind();
        if let Some((server, tool)) = self.aliases.get(exposed).filter(|_| kind == Kind::Tools) {
            return Some(Route { server: *server, name: Cow::Owned(tool.clone()) });
        }
        if let Some((prefix, rest)) = naming::split(exposed)
            && let Some(&server) = self.prefixes.get(prefix)
        {
            // A renamed tool is gone under its old name.
            let renamed = |name: &str| exposures[server].alias(kind, name).is_some();
            if naming::may_be_shortened(rest)
                && known.has(server, rest) != Some(true)
                && let Some(name) = known.by_exposed(server, exposed)
            {
                return (!renamed(&name)).then_some(Route { server, name: Cow::Owned(name) });
            }
            return (!renamed(rest)).then_some(Route { server, name: Cow::Borrowed(rest) });
        }
        let shown = |at: &usize| exposures[*at].shows(kind, exposed) && exposures[*at].alias(kind, exposed).is_none();
        let here = || self.bare.iter().copied().filter(shown);
        let server = here()
            .find(|at| known.has(*at, exposed) == Some(true))
            .or_else(|| here().find(|at| known.has(*at, exposed).is_none()))
            // Nobody has it: the only bare server may say so itself, in its own words.
            .or_else(|| (self.bare.len() == 1).then(|| here().next()).flatten())?;
        Some(Route { server, name: Cow::Borrowed(exposed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Catalogue(Vec<Option<Vec<&'static str>>>, Vec<String>);

    impl Known for Catalogue {
        fn kind(&self) -> Kind {
            Kind::Tools
        }
        fn has(&self, server: usize, tool: &str) -> Option<bool> {
            self.0[server].as_ref().map(|tools| tools.contains(&tool))
        }
        fn by_exposed(&self, server: usize, exposed: &str) -> Option<String> {
            let tools = self.0[server].as_ref()?;
            tools.iter().find(|t| naming::expose(&self.1[server], t) == exposed).map(|t| (*t).to_owned())
        }
    }

    fn check(assignments: &str, known: Vec<Option<Vec<&'static str>>>, cases: &[(&str, Option<(usize, &str)>)]) {
        let assignments: Vec<ServerAssignment> = serde_json::from_str(assignments).unwrap();
        let exposures: Vec<_> = assignments.iter().map(|a| Exposure::new(a).unwrap()).collect();
        let routes = Routes::new(&exposures);
        let known = Catalogue(known, exposures.iter().map(|e| e.prefix.clone()).collect());
        for (exposed, wanted) in cases {
            let found = routes.find(&exposures, exposed, &known);
            assert_eq!(found.as_ref().map(|r| (r.server, &*r.name)), *wanted, "{exposed}");
        }
    }

    #[test]
    fn prefixed_names_say_it_themselves() {
        check(
            r#"[{"server":"time"},{"server":"git","prefix":"g"}]"#,
            vec![None, None],
            &[
                ("time__now", Some((0, "now"))),
                ("g__log", Some((1, "log"))),
                ("g__a__b", Some((1, "a__b"))),
                ("git__log", None),
                ("now", None),
                ("", None),
                ("__now", None),
            ],
        );
    }

    #[test]
    fn a_second_server_renames_nothing() {
        let one = r#"[{"server":"time"}]"#;
        let two = r#"[{"server":"time"},{"server":"git"}]"#;
        check(one, vec![None], &[("time__now", Some((0, "now")))]);
        check(two, vec![None, None], &[("time__now", Some((0, "now")))]);
    }

    #[test]
    fn renamed_excluded_and_not_included_tools_are_gone() {
        check(
            r#"[{"server":"f","include":["read_*","list"],"exclude":["read_secret"],"tools":{"list":{"as":"ls"}}}]"#,
            vec![None],
            &[
                ("f__read_file", Some((0, "read_file"))),
                ("f__read_secret", None),
                ("f__write", None),
                ("f__ls", Some((0, "list"))),
                ("f__list", None),
            ],
        );
    }

    #[test]
    fn bare_names_ask_the_catalogue_and_the_first_wins() {
        let two = r#"[{"server":"a","bareNames":true},{"server":"b","bareNames":true,"exclude":["both"]}]"#;
        check(
            two,
            vec![Some(vec!["x", "both"]), Some(vec!["y", "both"])],
            &[("x", Some((0, "x"))), ("y", Some((1, "y"))), ("both", Some((0, "both"))), ("z", None)],
        );
        check(r#"[{"server":"a","bareNames":true}]"#, vec![Some(vec![])], &[("z", Some((0, "z")))]);
        check(two, vec![Some(vec!["x"]), None], &[("x", Some((0, "x"))), ("z", Some((1, "z")))]);
    }

    #[test]
    fn shortened_names_lead_back() {
        let odd = "do/this thing";
        let exposed = naming::expose("f__", odd);
        check(r#"[{"server":"f"}]"#, vec![Some(vec![odd])], &[(&exposed, Some((0, odd)))]);
    }
}
