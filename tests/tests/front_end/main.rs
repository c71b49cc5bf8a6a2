//! Host tier: the front-end between clients and endpoints of others, and its protocols case by case.
mod alone;
mod bulk;
mod bulk_http_2;
mod frames;
mod grpc;
mod http_1;
mod http_1_stops;
mod http_2;
mod http_2_floods;
mod messages;
mod reload;
mod stalled;
mod stand;
mod trace_context;
mod websocket;
