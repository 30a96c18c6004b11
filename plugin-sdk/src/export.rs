//! The macro that makes a component of a plugin.

/// Makes a component of a plugin, once per plugin: names its hooks, its configuration, and what it wants to be granted.
///
/// ```
/// # use portcullis_sdk::{Caller, Error, Resolution, Resolver, Schema, Target, export};
/// # struct Broker;
/// # impl Resolver for Broker {
/// #     fn resolve(_: Caller<'_>, _: Target<'_>, _: Resolution<'_>) -> Result<(), Error> {
/// #         Ok(())
/// #     }
/// # }
/// #[derive(serde::Deserialize, Schema)]
/// struct Config {
///     url: String,
/// }
///
/// export!(Broker: Resolver; config: Config; wants: {
///     http: "asks the broker for a token",
///     secrets "broker-key": "proves to the broker who asks",
/// });
/// ```
///
/// Each hook named must be implemented. `config` and `wants` may be left out. A plugin that has `wants` can be granted nothing else
/// than what stands there, under the names that a `Plugin` resource gives to `grants`; the text in front of the colon, where there is
/// one, says which secret, origin, issuer or role. Name, version and description are those of the crate. All of it stands in the
/// component as sections (`portcullis:manifest`, `portcullis:config-schema`); `portcullis plugin inspect` shows them.
///
/// Outside of WebAssembly this emits nothing but checks, so that a plugin's tests build natively.
#[macro_export]
macro_rules! export {
    (
        $plugin:ty: $($hook:ident),+ $(,)?
        $(; config: $config:ty)?
        $(; wants: { $($grant:ident $($what:literal)? : $reason:literal),* $(,)? })?
        $(;)?
    ) => {
        const _: () = {
            $(const _: fn() = || {
                fn implements<T: $crate::$hook>() {}
                implements::<$plugin>();
            };)+
        };
        #[allow(unsafe_code, dead_code, reason = "the sections stand in the component only")]
        const _: () = {
            use $crate::__json::Piece;
            const MANIFEST: &[Piece] = &[
                Piece::Raw("{\"manifest\":1,\"name\":"),
                Piece::Text(env!("CARGO_PKG_NAME")),
                Piece::Raw(",\"version\":"),
                Piece::Text(env!("CARGO_PKG_VERSION")),
                Piece::Raw(",\"description\":"),
                Piece::Text(env!("CARGO_PKG_DESCRIPTION")),
                Piece::Raw(",\"wit\":"),
                Piece::Text($crate::WIT_VERSION),
                Piece::Raw(",\"sdk\":"),
                Piece::Text($crate::__json::SDK),
                $(
                    Piece::Raw(",\"wants\":["),
                    Piece::List(&[$(Piece::All(&[
                        Piece::Raw("{\"grant\":"),
                        Piece::Text($crate::__json::grant(stringify!($grant))),
                        $(Piece::Raw(",\"what\":"), Piece::Text($what),)?
                        Piece::Raw(",\"reason\":"),
                        Piece::Text($reason),
                        Piece::Raw("}"),
                    ])),*]),
                    Piece::Raw("]"),
                )?
                Piece::Raw("}"),
            ];
            #[cfg_attr(target_arch = "wasm32", used, unsafe(link_section = "portcullis:manifest"))]
            static SECTION: [u8; $crate::__json::length(MANIFEST)] = $crate::__json::render(MANIFEST);
            $(
                const SCHEMA: &[Piece] = <$config as $crate::Schema>::PIECES;
                #[cfg_attr(target_arch = "wasm32", used, unsafe(link_section = "portcullis:config-schema"))]
                static SCHEMA_SECTION: [u8; $crate::__json::length(SCHEMA)] = $crate::__json::render(SCHEMA);
            )?
        };
        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, missing_docs, reason = "generated exports")]
        const _: () = {
            type PortcullisExport = $crate::__private::Adapter<$plugin>;
            $($crate::__export_hook!($hook, PortcullisExport);)+
        };
    };
}

/// One hook of [`export!`].
#[doc(hidden)]
#[macro_export]
macro_rules! __export_hook {
    (ToolCall, $export:ident) => {
        $crate::__private::tool_call::export_tool_call!($export with_types_in $crate::__private::tool_call);
    };
    (ToolResult, $export:ident) => {
        $crate::__private::tool_result::export_tool_result!($export with_types_in $crate::__private::tool_result);
    };
    (ResourceRead, $export:ident) => {
        $crate::__private::resource_read::export_resource_read!($export with_types_in $crate::__private::resource_read);
    };
    (PromptGet, $export:ident) => {
        $crate::__private::prompt_get::export_prompt_get!($export with_types_in $crate::__private::prompt_get);
    };
    (ServerRequest, $export:ident) => {
        $crate::__private::server_request::export_server_request!($export with_types_in $crate::__private::server_request);
    };
    (Setup, $export:ident) => {
        $crate::__private::setup::export_setup!($export with_types_in $crate::__private::setup);
    };
    (SessionOpen, $export:ident) => {
        $crate::__private::session::export_session!($export with_types_in $crate::__private::session);
    };
    (Described, $export:ident) => {
        $crate::__private::described::export_described!($export with_types_in $crate::__private::described);
    };
    (ListFilter, $export:ident) => {
        $crate::__private::list_filter::export_list_filter!($export with_types_in $crate::__private::list_filter);
    };
    (Resolver, $export:ident) => {
        $crate::__private::resolver::export_resolver!($export with_types_in $crate::__private::resolver);
    };
    (Refresher, $export:ident) => {
        $crate::__private::refresher::export_refresher!($export with_types_in $crate::__private::refresher);
    };
    (OnRejected, $export:ident) => {
        $crate::__private::on_rejected::export_on_rejected!($export with_types_in $crate::__private::on_rejected);
    };
    (Provider, $export:ident) => {
        $crate::__private::provider::export_provider!($export with_types_in $crate::__private::provider);
    };
}
