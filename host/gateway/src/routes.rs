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

use crate::naming;

/// Which of a server's tools an assignment shows, and under which names.
#[derive(Debug)]
pub struct Exposure {
    /// Put before each name, separator included; empty for bare names.
    pub prefix: String,
    include: Option<GlobSet>,
    exclude: GlobSet,
    tools: BTreeMap<String, ToolAssignment>,
}

impl Exposure {
    /// Compiles an assignment.
    ///
    /// # Errors
    /// In words, for a glob that is none.
    pub fn new(assignment: &ServerAssignment) -> Result<Self, String> {
        Ok(Self {
            prefix: assignment.exposed_prefix(),
            include: if assignment.include.is_empty() { None } else { Some(globs(&assignment.include)?) },
            exclude: globs(&assignment.exclude)?,
            tools: assignment.tools.clone(),
        })
    }

    /// Whether the server's tool is shown at all.
    pub fn shows(&self, tool: &str) -> bool {
        self.include.as_ref().is_none_or(|set| set.is_match(tool)) && !self.exclude.is_match(tool)
    }

    /// How the tool is called towards clients.
    pub fn exposed<'a>(&self, tool: &'a str) -> Cow<'a, str> {
        match self.tools.get(tool).and_then(|t| t.alias.as_deref()) {
            Some(alias) => Cow::Owned(format!("{}{alias}", self.prefix)),
            None if self.prefix.is_empty() => Cow::Borrowed(tool),
            None => Cow::Owned(naming::expose(&self.prefix, tool)),
        }
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
    /// The tool's own name.
    pub tool: Cow<'a, str>,
}

/// What the catalogue knows of a server's tools.
pub trait Known {
    /// Whether the server has a tool of this name; none where that is not known.
    fn has(&self, server: usize, tool: &str) -> Option<bool>;
    /// The server's tool that is shown under this name, for names that say it not themselves.
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
                routes.aliases.entry(exposure.exposed(tool).into_owned()).or_insert((at, tool.clone()));
            }
        }
        routes
    }

    /// Where a call of this exposed name goes; none where nothing is shown under it.
    pub fn find<'a>(&self, exposures: &[Exposure], exposed: &'a str, known: &impl Known) -> Option<Route<'a>> {
        let route = self.find_any(exposures, exposed, known)?;
        exposures.get(route.server)?.shows(&route.tool).then_some(route)
    }

    fn find_any<'a>(&self, exposures: &[Exposure], exposed: &'a str, known: &impl Known) -> Option<Route<'a>> {
        if let Some((server, tool)) = self.aliases.get(exposed) {
            return Some(Route { server: *server, tool: Cow::Owned(tool.clone()) });
        }
        if let Some((prefix, rest)) = naming::split(exposed)
            && let Some(&server) = self.prefixes.get(prefix)
        {
            // A renamed tool is gone under its old name.
            let renamed = |tool: &str| exposures[server].tool(tool).is_some_and(|t| t.alias.is_some());
            if naming::may_be_shortened(rest)
                && known.has(server, rest) != Some(true)
                && let Some(tool) = known.by_exposed(server, exposed)
            {
                return (!renamed(&tool)).then_some(Route { server, tool: Cow::Owned(tool) });
            }
            return (!renamed(rest)).then_some(Route { server, tool: Cow::Borrowed(rest) });
        }
        let shown = |at: &usize| {
            exposures[*at].shows(exposed) && exposures[*at].tool(exposed).is_none_or(|t| t.alias.is_none())
        };
        let here = || self.bare.iter().copied().filter(shown);
        let server = here()
            .find(|at| known.has(*at, exposed) == Some(true))
            .or_else(|| here().find(|at| known.has(*at, exposed).is_none()))
            // Nobody has it: the only bare server may say so itself, in its own words.
            .or_else(|| (self.bare.len() == 1).then(|| here().next()).flatten())?;
        Some(Route { server, tool: Cow::Borrowed(exposed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Catalogue(Vec<Option<Vec<&'static str>>>, Vec<String>);

    impl Known for Catalogue {
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
            assert_eq!(found.as_ref().map(|r| (r.server, &*r.tool)), *wanted, "{exposed}");
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
