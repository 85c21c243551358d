"""Tokens of identity providers, with the claims that their documents show, and Paidup's settings for them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

NOW = int(time.time())


@dataclass(frozen=True)
class ProviderToken:
    """One kind of token. `settings` are those of docs/identity-providers.md."""

    name: str
    algorithm: str
    customer: str
    claims: dict[str, Any]
    settings: dict[str, str]
    foreign: dict[str, Any]
    """Claims of the same provider's token for another project or application."""


SUPABASE = ProviderToken(
    # https://supabase.com/docs/guides/auth/jwt-fields
    "Supabase",
    "ES256",
    "123e4567-e89b-12d3-a456-426614174000",
    {
        "iss": "https://abcdefghijklmnopqrst.supabase.co/auth/v1",
        "aud": "authenticated",
        "exp": NOW + 3600,
        "iat": NOW,
        "sub": "123e4567-e89b-12d3-a456-426614174000",
        "role": "authenticated",
        "aal": "aal1",
        "session_id": "9f4c6a0e-5d0f-4bd1-8f4e-3c1c3a3e7c8a",
        "email": "user@example.com",
        "phone": "",
        "is_anonymous": False,
        "amr": [{"method": "password", "timestamp": NOW}],
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "user_metadata": {"scope": "backend"},
    },
    {
        "auth_jwt_audience": "authenticated",
        "auth_jwt_issuer": "https://abcdefghijklmnopqrst.supabase.co/auth/v1",
        "auth_jwt_algorithms": "ES256",
    },
    {"iss": "https://anotherprojectanother.supabase.co/auth/v1"},
)
AUTH0 = ProviderToken(
    # https://auth0.com/docs/secure/tokens/access-tokens/access-token-profiles
    "Auth0",
    "RS256",
    "auth0|6553da60a54af58e29493993",
    {
        "iss": "https://tenant.auth0.com/",
        "sub": "auth0|6553da60a54af58e29493993",
        "aud": ["https://billing.example.com", "https://tenant.auth0.com/userinfo"],
        "azp": "K1AUPhZq8mRi0Q0pjhkfu1D7y6KjDQja",
        "exp": NOW + 86400,
        "iat": NOW,
        "scope": "openid profile email",
    },
    {
        "auth_jwt_audience": "https://billing.example.com",
        "auth_jwt_issuer": "https://tenant.auth0.com/",
        "auth_jwt_algorithms": "RS256",
    },
    {"aud": "https://tenant.auth0.com/api/v2/"},
)
CLERK = ProviderToken(
    # https://clerk.com/docs/guides/sessions/session-tokens (version 2)
    "Clerk",
    "RS256",
    "user_2WZpH4rYQ8mX9kTn3cVb7LsDfGa",
    {
        "azp": "https://app.example.com",
        "exp": NOW + 3600,  # a minute in life, which a long test run outlasts
        "fva": [7, -1],
        "iat": NOW,
        "iss": "https://clerk.example.com",
        "jti": "a1b2c3d4e5f6a7b8c9d0",
        "nbf": NOW - 10,
        "pla": "u:free",
        "sid": "sess_2WZpH5tYQ8mX9kTn3cVb7LsDfGb",
        "sts": "active",
        "sub": "user_2WZpH4rYQ8mX9kTn3cVb7LsDfGa",
        "v": 2,
    },
    {
        "auth_jwt_audience": "https://app.example.com",
        "auth_jwt_audience_claim": "azp",
        "auth_jwt_issuer": "https://clerk.example.com",
        "auth_jwt_algorithms": "RS256",
    },
    {"azp": "https://another.example.com"},
)
COGNITO = ProviderToken(
    # https://docs.aws.amazon.com/cognito/latest/developerguide/amazon-cognito-user-pools-using-the-access-token.html
    "Cognito, access token",
    "RS256",
    "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    {
        "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "device_key": "us-east-1_aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "cognito:groups": ["admins"],
        "iss": "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_example",
        "version": 2,
        "client_id": "1example23456789",
        "origin_jti": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "event_id": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "token_use": "access",
        "scope": "phone openid profile email",
        "auth_time": NOW,
        "exp": NOW + 3600,
        "iat": NOW,
        "jti": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "username": "my-test-user",
    },
    {
        "auth_jwt_audience": "1example23456789",
        "auth_jwt_audience_claim": "client_id",
        "auth_jwt_issuer": "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_example",
        "auth_jwt_algorithms": "RS256",
    },
    {"client_id": "9another87654321"},
)
COGNITO_ID = ProviderToken(
    # https://docs.aws.amazon.com/cognito/latest/developerguide/amazon-cognito-user-pools-using-the-id-token.html
    "Cognito, ID token",
    "RS256",
    COGNITO.customer,
    {
        "sub": COGNITO.customer,
        "cognito:groups": ["test-group-a"],
        "email_verified": True,
        "iss": COGNITO.claims["iss"],
        "cognito:username": "my-test-user",
        "origin_jti": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "aud": "1example23456789",
        "token_use": "id",
        "auth_time": NOW,
        "exp": NOW + 3600,
        "iat": NOW,
        "email": "my-test-user@example.com",
    },
    COGNITO.settings | {"auth_jwt_audience_claim": "aud"},
    {"aud": "9another87654321"},
)
FIREBASE = ProviderToken(
    # https://firebase.google.com/docs/auth/admin/verify-id-tokens#verify_id_tokens_using_a_third-party_jwt_library
    "Firebase",
    "RS256",
    "Xk893u23H9SI893a0bC1dE2fG3h4",
    {
        "iss": "https://securetoken.google.com/my-project",
        "aud": "my-project",
        "auth_time": NOW,
        "user_id": "Xk893u23H9SI893a0bC1dE2fG3h4",
        "sub": "Xk893u23H9SI893a0bC1dE2fG3h4",
        "iat": NOW,
        "exp": NOW + 3600,
        "email": "user@example.com",
        "email_verified": True,
        "firebase": {"identities": {"email": ["user@example.com"]}, "sign_in_provider": "password"},
    },
    {
        "auth_jwt_audience": "my-project",
        "auth_jwt_issuer": "https://securetoken.google.com/my-project",
        "auth_jwt_algorithms": "RS256",
    },
    # The keys are the same for all projects of Firebase: anyone can make such a project.
    {"iss": "https://securetoken.google.com/another-project", "aud": "another-project"},
)
PROVIDERS = [SUPABASE, AUTH0, CLERK, COGNITO, COGNITO_ID, FIREBASE]
