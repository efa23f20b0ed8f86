// @vitest-environment happy-dom
import { afterEach, describe, expect, it } from "vitest";
import { config, traceAddress, workflowAddress } from "../src/lib/account";

const before = config.value;
afterEach(() => void (config.value = before));

const viewers = (trace_url_template: string | null, temporal_ui_url: string | null) =>
  void (config.value = { ...before, trace_url_template, temporal_ui_url });

describe("addresses of viewers", () => {
  it("put the id where the template has it, as one part of a path", () => {
    viewers("https://traces.example/trace/{trace_id}?from={trace_id}", "https://temporal.example/namespaces/default");
    expect(traceAddress("a/../b")).toBe("https://traces.example/trace/a%2F..%2Fb?from=a%2F..%2Fb");
    expect(workflowAddress("run-1#<img>")).toBe("https://temporal.example/namespaces/default/workflows/run-1%23%3Cimg%3E");
  });

  it("are none where no viewer is configured", () => {
    viewers(null, null);
    expect(traceAddress("1")).toBeNull();
    expect(workflowAddress("run-1")).toBeNull();
  });

  it.each(["javascript:alert(1)//{trace_id}", "data:text/html,{trace_id}", "{trace_id}", "//traces.example/{trace_id}"])(
    "are none where the template is not a web address: %s",
    (template) => {
      viewers(template, template);
      expect(traceAddress("javascript:alert(1)")).toBeNull();
      expect(workflowAddress("run-1")).toBeNull();
    },
  );
});
