// @vitest-environment happy-dom
import { render } from "preact";
import { describe, expect, it, vi } from "vitest";
import { inline, parse, safeAddress } from "../src/lib/markdown";
import { Markdown } from "../src/ui/markdown";

function shown(text: string, props: { onCite?: (n: number) => void; citations?: number } = {}): HTMLElement {
  const root = document.createElement("div");
  render(<Markdown text={text} {...props} />, root);
  return root;
}

describe("what is understood", () => {
  it.each([
    ["# Title", "heading"],
    ["- one\n- two", "list"],
    ["3. three", "list"],
    ["> said", "quote"],
    ["```py\nx = 1\n```", "code"],
    ["a | b\n--- | ---\n1 | 2", "table"],
    ["---", "rule"],
    ["plain", "paragraph"],
  ])("%j is a %s", (text, kind) => {
    expect(parse(text).map((block) => block.kind)).toEqual([kind]);
  });

  it("nests lists", () => {
    expect(shown("- one\n  - inner\n- two").querySelectorAll("ul ul li")).toHaveLength(1);
  });

  it("keeps an unclosed fence to the end, as an answer is while it streams", () => {
    expect(parse("```\nx = 1")).toEqual([{ kind: "code", text: "x = 1", language: "" }]);
  });

  it("marks emphasis and code, not snake_case", () => {
    const root = shown("**bold** *soft* `a*b` snake_case_name 2*3*4");
    expect(root.querySelector("strong")?.textContent).toBe("bold");
    expect(root.querySelector("em")?.textContent).toBe("soft");
    expect(root.querySelector("code")?.textContent).toBe("a*b");
    expect(root.textContent).toContain("snake_case_name");
  });

  it("makes citations buttons that open their source", () => {
    const onCite = vi.fn();
    const root = shown("Two people. [1] And more. [7]", { onCite, citations: 1 });
    root.querySelector("button")?.click();
    expect(onCite).toHaveBeenCalledWith(1);
    expect(root.querySelectorAll("button")).toHaveLength(1);
    expect(root.textContent).toContain("[7]");
  });
});

describe("what is not let through", () => {
  const NASTY = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://evil.example/pixel.png)",
    "![](https://evil.example/pixel.png)",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](java\nscript:alert(1))",
    "[click](data:text/html,<script>alert(1)</script>)",
    "[click](vbscript:x)",
    "[click](&#106;avascript:alert(1))",
    "[click](//evil.example)",
    "[click](\tjavascript:alert(1))",
    "[a](https://ok.example/\"onmouseover=alert(1))",
    "<javascript:alert(1)>",
    "[![x](https://evil.example/a.png)](https://ok.example)",
    "<iframe src=https://evil.example></iframe>",
    "<svg/onload=alert(1)>",
    "| a |\n|---|\n| <img src=x onerror=alert(1)> |",
    "```\n</code></pre><script>alert(1)</script>\n```",
    "> <style>@import url(https://evil.example)</style>",
    "<a href=\"javascript:alert(1)\">x</a>",
    "<form action=https://evil.example><input name=a></form>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "[1]: javascript:alert(1)",
    "https://ok.example/<script>",
  ];
  it.each(NASTY)("%j", (text) => {
    const root = shown(text);
    expect(root.querySelector("script, img, iframe, svg, style, form, input, object, embed, base, link, meta")).toBeNull();
    for (const anchor of root.querySelectorAll("a")) expect(anchor.getAttribute("href")).toMatch(/^(https?|mailto):/i);
    for (const element of root.querySelectorAll("*")) {
      for (const { name } of element.attributes) expect(name).not.toMatch(/^on|^style$|^src/);
    }
  });

  it("shows HTML as the text that it is", () => {
    expect(shown("a <b>c</b>").textContent).toBe("a <b>c</b>");
  });

  it("shows an image's words instead of fetching it", () => {
    expect(inline("![a cat](https://evil.example/x.png)")).toEqual([{ kind: "text", text: "[image: a cat]" }]);
  });

  it("opens links without a way back to this page", () => {
    const anchor = shown("[x](https://ok.example)").querySelector("a");
    expect(anchor?.rel).toContain("noopener");
    expect(anchor?.target).toBe("_blank");
  });

  it("takes only addresses that are whole", () => {
    expect(safeAddress("https://ok.example/a")).toBe("https://ok.example/a");
    expect(safeAddress("/v1/keys")).toBeNull();
    expect(safeAddress("javascript:alert(1)")).toBeNull();
  });
});

describe("where a link leads", () => {
  it.each([
    ["[your bank](https://evil.example/login)", "your bank (evil.example)"],
    ["[https://bank.example](https://evil.example/)", "https://bank.example (evil.example)"],
    ["[https://bank.example/](https://bank.example.evil.example/)", "https://bank.example/ (bank.example.evil.example)"],
    ["[**https://bank.example**](https://evil.example)", "https://bank.example (evil.example)"],
    ["[x](https://evil.example:8443/a)", "x (evil.example:8443)"],
    ["[x](http://127.0.0.1/)", "x (127.0.0.1)"],
    ["[write to us](mailto:evil@evil.example?subject=x)", "write to us (evil@evil.example)"],
    ["https://b\u0430nk.example", "https://b\u0430nk.example (xn--bnk-6cd.example)"],
    ["[\u202e](https://evil.example)", "\u202e (evil.example)"],
  ])("%j shows its host", (text, expected) => {
    expect(shown(text).textContent).toBe(expected);
  });

  it("is said once where the address is the label", () => {
    expect(shown("See https://ok.example/a.").textContent).toBe("See https://ok.example/a.");
  });

  it.each(["https://bank.example@evil.example/", "[x](https://bank.example@evil.example/)", "[x](https://:p@evil.example)"])(
    "%j is text: a user name can look like a host",
    (text) => {
      const root = shown(text);
      expect(root.querySelector("a")).toBeNull();
      expect(root.textContent).toContain("evil.example");
    },
  );

  it("is kept apart from a label that changes the direction of text", () => {
    const root = shown("[\u202e](https://evil.example)");
    expect([...root.querySelectorAll("bdi")].map((each) => each.textContent)).toEqual(["\u202e", "(evil.example)"]);
  });
});

describe("hostile sizes", () => {
  it.each([
    ["brackets", "[".repeat(20_000)],
    ["stars", "*".repeat(20_000)],
    ["stars and letters", "*a ".repeat(10_000)],
    ["underscores", "_a".repeat(10_000)],
    ["backticks", "`".repeat(20_000)],
    ["links", "[a](".repeat(5_000)],
    ["bangs", "![".repeat(10_000)],
    ["quotes", ">".repeat(5_000)],
    ["lists", "- ".repeat(5_000)],
    ["tables", `${"|".repeat(2_000)}\n${"|-".repeat(2_000)}`],
  ])("%s are read, and stay text", (_name, text) => {
    expect(parse(text).length).toBeGreaterThan(0);
  });
});
