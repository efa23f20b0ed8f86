"""People in a browser: sign-ins, the cookies that hold them, and the OpenID Connect code flow."""
