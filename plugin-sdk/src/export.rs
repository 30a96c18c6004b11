//! The macro that makes a component of a plugin.

/// Exports a type's hooks: `export!(Mine: ToolCall, ListFilter);`, once per plugin. Each hook named must be implemented.
/// Emits nothing but a check of that outside of WebAssembly, so that a plugin's tests build natively.
#[macro_export]
macro_rules! export {
    ($plugin:ty: $($hook:ident),+ $(,)?) => {
        const _: () = {
            $(const _: fn() = || {
                fn implements<T: $crate::$hook>() {}
                implements::<$plugin>();
            };)+
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
