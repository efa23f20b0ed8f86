/** What authenticates a request. `refused` is the token that the gateway did not take, where it is asked for another. */
export type TokenSource = string | ((refused?: string) => string | Promise<string>);

/** A browser token as `POST /v1/tokens` answers it: these two members are needed. */
export interface BrowserToken {
  token: string;
  expires_at: string;
}

const RENEW_BEFORE_MS = 30_000;

/**
 * A source of browser tokens: asks `fetchToken` (your own server) for one, keeps it, and asks again half a minute before it
 * ends, or when the gateway takes it no more. Callers at the same time share one request.
 */
export function browserToken(fetchToken: () => Promise<BrowserToken>): (refused?: string) => Promise<string> {
  let known: Promise<BrowserToken> | null = null;
  const renew = (): Promise<BrowserToken> => {
    const asked = fetchToken();
    known = asked;
    asked.catch(() => {
      if (known === asked) known = null;
    });
    return asked;
  };
  return async (refused) => {
    const asked = known ?? renew();
    const current = await asked;
    const isOver = current.token === refused || Date.parse(current.expires_at) - Date.now() < RENEW_BEFORE_MS;
    if (!isOver) return current.token;
    // Another caller may have asked for a new one meanwhile.
    return (await (known === null || known === asked ? renew() : known)).token;
  };
}

/** The token itself. */
export async function tokenOf(source: TokenSource, refused?: string): Promise<string> {
  return typeof source === "string" ? source : await source(refused);
}
