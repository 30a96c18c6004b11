//! The contract in `wit/` as Rust: the imports once, and each hook over the same types, so that a plugin may export any set
//! of hooks. Only in the component; natively `fake` stands in its place.

#![allow(unsafe_code, missing_docs, rust_2018_idioms, clippy::all)]

/// What a plugin may ask of the host. A component imports only those functions that it really calls.
pub(crate) mod imports {
    wit_bindgen::generate!({
        path: ["wit/types", "wit/host", "wit/credential", "wit/auth", "wit/policy"],
        inline: r#"
            package portcullis:sdk;
            world imports {
                import portcullis:types/context@0.1.0;
                import portcullis:types/error@0.1.0;
                import portcullis:host/config@0.1.0;
                import portcullis:host/log@0.1.0;
                import portcullis:host/secrets@0.1.0;
                import portcullis:host/reveal@0.1.0;
                import portcullis:host/http@0.1.0;
                import portcullis:host/token-request@0.1.0;
                import portcullis:host/state@0.1.0;
                import portcullis:host/signing@0.1.0;
                import portcullis:host/metrics@0.1.0;
                import portcullis:credential/target@0.1.0;
                import portcullis:credential/connections@0.1.0;
                import portcullis:credential/resolution@0.1.0;
                import portcullis:credential/caller-token@0.1.0;
                import portcullis:credential/earlier@0.1.0;
                import portcullis:auth/request@0.1.0;
                import portcullis:auth/tokens@0.1.0;
                import portcullis:auth/jwt@0.1.0;
                import portcullis:auth/identity@0.1.0;
                import portcullis:auth/resource-metadata@0.1.0;
                import portcullis:policy/decision@0.1.0;
                import portcullis:policy/results@0.1.0;
                import portcullis:policy/requests@0.1.0;
                import portcullis:policy/lists@0.1.0;
                import portcullis:policy/sessions@0.1.0;
            }
        "#,
        world: "portcullis:sdk/imports",
        runtime_path: "::portcullis_sdk::__private::rt",
        generate_all,
    });
}

macro_rules! hook {
    ($module:ident, $world:literal, $path:tt, $export:tt, { $($from:literal: $to:path,)* }) => {
        pub mod $module {
            wit_bindgen::generate!({
                path: $path,
                world: $world,
                runtime_path: "::portcullis_sdk::__private::rt",
                pub_export_macro: true,
                export_macro_name: $export,
                default_bindings_module: "::portcullis_sdk::__private",
                with: { $($from: $to,)* },
            });
        }
    };
}

hook!(tool_call, "portcullis:policy/hook-tool-call", ["wit/types", "wit/policy"], "export_tool_call", {
    "portcullis:types/context@0.1.0": crate::bindings::imports::portcullis::types::context,
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
    "portcullis:policy/decision@0.1.0": crate::bindings::imports::portcullis::policy::decision,
});
hook!(tool_result, "portcullis:policy/hook-tool-result", ["wit/types", "wit/policy"], "export_tool_result", {
    "portcullis:types/context@0.1.0": crate::bindings::imports::portcullis::types::context,
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
    "portcullis:policy/decision@0.1.0": crate::bindings::imports::portcullis::policy::decision,
    "portcullis:policy/results@0.1.0": crate::bindings::imports::portcullis::policy::results,
});
hook!(resource_read, "portcullis:policy/hook-resource-read", ["wit/types", "wit/policy"], "export_resource_read", {
    "portcullis:types/context@0.1.0": crate::bindings::imports::portcullis::types::context,
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
    "portcullis:policy/decision@0.1.0": crate::bindings::imports::portcullis::policy::decision,
    "portcullis:policy/requests@0.1.0": crate::bindings::imports::portcullis::policy::requests,
});
hook!(prompt_get, "portcullis:policy/hook-prompt-get", ["wit/types", "wit/policy"], "export_prompt_get", {
    "portcullis:types/context@0.1.0": crate::bindings::imports::portcullis::types::context,
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
    "portcullis:policy/decision@0.1.0": crate::bindings::imports::portcullis::policy::decision,
    "portcullis:policy/requests@0.1.0": crate::bindings::imports::portcullis::policy::requests,
});
hook!(server_request, "portcullis:policy/hook-server-request", ["wit/types", "wit/policy"], "export_server_request", {
    "portcullis:types/context@0.1.0": crate::bindings::imports::portcullis::types::context,
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
    "portcullis:policy/decision@0.1.0": crate::bindings::imports::portcullis::policy::decision,
    "portcullis:policy/requests@0.1.0": crate::bindings::imports::portcullis::policy::requests,
});
hook!(list_filter, "portcullis:policy/hook-list-filter", ["wit/types", "wit/policy"], "export_list_filter", {
    "portcullis:types/context@0.1.0": crate::bindings::imports::portcullis::types::context,
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
    "portcullis:policy/lists@0.1.0": crate::bindings::imports::portcullis::policy::lists,
});
hook!(session, "portcullis:policy/hook-session", ["wit/types", "wit/policy"], "export_session", {
    "portcullis:types/context@0.1.0": crate::bindings::imports::portcullis::types::context,
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
    "portcullis:policy/decision@0.1.0": crate::bindings::imports::portcullis::policy::decision,
    "portcullis:policy/sessions@0.1.0": crate::bindings::imports::portcullis::policy::sessions,
});
hook!(described, "portcullis:auth/hook-described", ["wit/types", "wit/host", "wit/auth"], "export_described", {
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
    "portcullis:auth/resource-metadata@0.1.0": crate::bindings::imports::portcullis::auth::resource_metadata,
});
hook!(setup, "portcullis:types/hook-setup", ["wit/types"], "export_setup", {
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
});
hook!(resolver, "portcullis:credential/hook-resolver", ["wit/types", "wit/host", "wit/credential"], "export_resolver", {
    "portcullis:types/context@0.1.0": crate::bindings::imports::portcullis::types::context,
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
    "portcullis:host/secrets@0.1.0": crate::bindings::imports::portcullis::host::secrets,
    "portcullis:credential/target@0.1.0": crate::bindings::imports::portcullis::credential::target,
    "portcullis:credential/resolution@0.1.0": crate::bindings::imports::portcullis::credential::resolution,
});
hook!(refresher, "portcullis:credential/hook-refresher", ["wit/types", "wit/host", "wit/credential"], "export_refresher", {
    "portcullis:types/context@0.1.0": crate::bindings::imports::portcullis::types::context,
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
    "portcullis:host/secrets@0.1.0": crate::bindings::imports::portcullis::host::secrets,
    "portcullis:credential/target@0.1.0": crate::bindings::imports::portcullis::credential::target,
    "portcullis:credential/earlier@0.1.0": crate::bindings::imports::portcullis::credential::earlier,
    "portcullis:credential/resolution@0.1.0": crate::bindings::imports::portcullis::credential::resolution,
});
hook!(on_rejected, "portcullis:credential/hook-on-rejected", ["wit/types", "wit/host", "wit/credential"], "export_on_rejected", {
    "portcullis:types/context@0.1.0": crate::bindings::imports::portcullis::types::context,
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
    "portcullis:host/secrets@0.1.0": crate::bindings::imports::portcullis::host::secrets,
    "portcullis:credential/target@0.1.0": crate::bindings::imports::portcullis::credential::target,
    "portcullis:credential/earlier@0.1.0": crate::bindings::imports::portcullis::credential::earlier,
    "portcullis:credential/resolution@0.1.0": crate::bindings::imports::portcullis::credential::resolution,
});
hook!(provider, "portcullis:auth/hook-provider", ["wit/types", "wit/host", "wit/auth"], "export_provider", {
    "portcullis:types/context@0.1.0": crate::bindings::imports::portcullis::types::context,
    "portcullis:types/error@0.1.0": crate::bindings::imports::portcullis::types::error,
    "portcullis:host/secrets@0.1.0": crate::bindings::imports::portcullis::host::secrets,
    "portcullis:auth/request@0.1.0": crate::bindings::imports::portcullis::auth::request,
    "portcullis:auth/tokens@0.1.0": crate::bindings::imports::portcullis::auth::tokens,
    "portcullis:auth/identity@0.1.0": crate::bindings::imports::portcullis::auth::identity,
});
