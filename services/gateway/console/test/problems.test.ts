import { afterEach, describe, expect, it, vi } from "vitest";
import { address, get, path, post, whenSignedOut } from "../src/api/client";
import { ApiError, asApiError, errorFrom } from "../src/api/problem";

afterEach(() => vi.unstubAllGlobals());

describe("problem documents", () => {
  it("keep what the gateway said", () => {
    const body = {
      title: "Unprocessable Entity",
      detail: "the request does not fit its schema",
      code: "invalid",
      errors: [{ pointer: "#/query", detail: "it is blank" }, "nonsense"],
      trace_id: "0af7651916cd43dd8448eb211c80319c",
    };
    const error = errorFrom(422, "", JSON.stringify(body));
    expect(error).toMatchObject({ status: 422, code: "invalid", message: body.detail, traceId: body.trace_id });
    expect(error.errors).toEqual([{ pointer: "#/query", detail: "it is blank" }]);
  });

  it.each([
    ["<html>502 Bad Gateway</html>", 502],
    ["", 500],
    ["[]", 503],
    ['"text"', 400],
  ])("are made up for an answer like %j", (body, status) => {
    const error = errorFrom(status, "Bad", body);
    expect(error).toMatchObject({ status, title: "Bad", code: `status_${status}` });
  });

  it("say what to do about it", () => {
    expect(errorFrom(403, "", '{"code":"self_approval"}').hint).toMatch(/Somebody else/);
    expect(errorFrom(409, "", '{"code":"stale_hash"}').hint).toMatch(/decide again/);
    expect(errorFrom(503, "", '{"code":"parked"}').hint).toMatch(/operator decides/);
    expect(errorFrom(404, "", "{}").hint).not.toBeNull();
    expect(errorFrom(409, "", "{}").hint).toBeNull();
  });

  it("tell what passes by itself from what does not", () => {
    for (const status of [429, 502, 503, 504]) expect(errorFrom(status, "", "").isTransient).toBe(true);
    for (const status of [400, 403, 404, 409, 422]) expect(errorFrom(status, "", "").isTransient).toBe(false);
  });

  it("read Retry-After", () => {
    expect(errorFrom(503, "", "", "3").retryAfterS).toBe(3);
    expect(errorFrom(503, "", "", "Wed, 21 Oct 2026 07:28:00 GMT").retryAfterS).toBeNull();
    expect(errorFrom(503, "", "", " ").retryAfterS).toBeNull();
  });

  it("are shown for anything that is thrown", () => {
    expect(asApiError(new Error("oops")).message).toBe("oops");
    expect(asApiError("oops").message).toBe("oops");
  });
});

describe("requests", () => {
  it("carry the console's header when they change something, and only then", async () => {
    const fetched = vi.fn(() => Promise.resolve(new Response("{}")));
    vi.stubGlobal("fetch", fetched);
    await get("/v1/runs");
    await post("/v1/runs/r/cancel");
    const [[, read], [, write]] = fetched.mock.calls as unknown as [string, RequestInit][] as [
      [string, RequestInit],
      [string, RequestInit],
    ];
    expect(new Headers(read.headers).has("X-Flotilla-Console")).toBe(false);
    expect(new Headers(write.headers).get("X-Flotilla-Console")).toBe("1");
    expect(write.credentials).toBe("same-origin");
  });

  it("say that the sign-in ended", async () => {
    vi.stubGlobal("fetch", () => Promise.resolve(new Response("{}", { status: 401 })));
    const act = vi.fn();
    whenSignedOut(act);
    await expect(get("/v1/runs")).rejects.toBeInstanceOf(ApiError);
    expect(act).toHaveBeenCalledOnce();
  });

  it("become an error of their own without an answer", async () => {
    vi.stubGlobal("fetch", () => Promise.reject(new TypeError("Failed to fetch")));
    await expect(get("/v1/runs")).rejects.toMatchObject({ status: 0, code: "no_answer", isTransient: true });
  });

  it("take a 204 as nothing", async () => {
    vi.stubGlobal("fetch", () => Promise.resolve(new Response(null, { status: 204 })));
    expect(await post("/auth/logout")).toBeUndefined();
  });

  it("encode ids and leave empty filters out", () => {
    expect(path("/v1/sessions", "a/b ?", "events")).toBe("/v1/sessions/a%2Fb%20%3F/events");
    expect(address("/v1/runs", { status: "", session_id: "a&b", limit: 5, cursor: null })).toBe("/v1/runs?session_id=a%26b&limit=5");
  });
});
