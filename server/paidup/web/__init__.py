"""HTTP and WebSockets: API, webhooks, authentication, problem documents, health, operators' page."""
