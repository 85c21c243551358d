"""HTTP and WebSockets: the API, the webhooks, authentication, problem documents, health, operators' page."""
