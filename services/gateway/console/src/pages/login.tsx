import { useState } from "preact/hooks";
import { ApiError } from "../api/problem";
import { config, logIn, signIn } from "../lib/account";
import { useActing, useTitle } from "../lib/hooks";
import { currentQuery, navigate, safeNext } from "../lib/router";
import { Icon } from "../ui/icon";
import { Button, Field, Problem } from "../ui/parts";

const UNKNOWN = "The identity provider's answer could not be used. Begin again.";
const FAILURES = new Map([
  ["denied", "The identity provider did not let you in."],
  ["expired", "Signing in took too long. Begin again."],
  ["no_role", "You have no role here. Ask an administrator for one."],
]);

export function LoginPage() {
  useTitle("Sign in");
  const next = safeNext(currentQuery.value.get("next"));
  const failed = currentQuery.value.get("failed");
  const { key_login, oidc } = config.value;
  if (signIn.value === "in") navigate(next, { replace: true });
  return (
    <main class="login" id="main">
      <div class="login-card">
        <div class="brand large">
          <Icon name="fleet" />
          <span>Flotilla</span>
        </div>
        <h1>Sign in</h1>
        {failed !== null && (
          <div class="problem" role="alert">
            <Icon name="warn" />
            <p>{FAILURES.get(failed) ?? UNKNOWN}</p>
          </div>
        )}
        {oidc && (
          <a class="button primary block" href={`/auth/oidc/start?next=${encodeURIComponent(next)}`}>
            Sign in with your organisation
          </a>
        )}
        {oidc && key_login && <p class="divider">or</p>}
        {key_login && <KeyForm next={next} isMain={!oidc} />}
        {!oidc && !key_login && <p>No way to sign in is set up. The gateway's settings name one.</p>}
      </div>
    </main>
  );
}

function KeyForm({ next, isMain }: { next: string; isMain: boolean }) {
  const [key, setKey] = useState("");
  const acting = useActing();
  const isWrong = acting.error instanceof ApiError && acting.error.status === 401;
  const submit = (event: Event) => {
    event.preventDefault();
    void acting.run(() => logIn(key.trim())).then((isIn) => isIn && navigate(next, { replace: true }));
  };
  return (
    <form onSubmit={submit}>
      <Field
        label="API key"
        help="flotilla up prints where the keys of the local stack are."
        error={isWrong ? "The key is unknown, expired or revoked." : undefined}
      >
        {(ids) => (
          <input
            {...ids}
            type="password"
            autocomplete="current-password"
            spellcheck={false}
            required
            value={key}
            onInput={(event) => setKey(event.currentTarget.value)}
          />
        )}
      </Field>
      {!isWrong && <Problem error={acting.error} />}
      <Button type="submit" variant={isMain ? "primary" : "plain"} isBusy={acting.isBusy} disabled={key.trim() === ""}>
        Sign in
      </Button>
    </form>
  );
}
