/** The shell around the pages: navigation, account, and which page an address shows. */

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import * as api from "./api/calls";
import { failure, isAdmin, logOut, mayOperate, me, signIn, startAccount } from "./lib/account";
import { pageTitle, useActing, useLoaded } from "./lib/hooks";
import { currentPath, match, navigate } from "./lib/router";
import { setTheme, theme, type Theme } from "./lib/theme";
import { ApprovalPage } from "./pages/approval";
import { ApprovalsPage } from "./pages/approvals";
import { ArchivesPage } from "./pages/archives";
import { AskPage } from "./pages/ask";
import { DocumentsPage } from "./pages/documents";
import { FleetPage } from "./pages/fleet";
import { LoginPage } from "./pages/login";
import { OrdersPage } from "./pages/orders";
import { PrivacyPage } from "./pages/privacy";
import { QuestionPage, QuestionsPage } from "./pages/questions";
import { RunPage } from "./pages/run";
import { RunsPage } from "./pages/runs";
import { SessionPage } from "./pages/session";
import { SessionsPage } from "./pages/sessions";
import { SignersPage } from "./pages/signers";
import { SpendPage } from "./pages/spend";
import { StartPage } from "./pages/start";
import { ToolsPage } from "./pages/tools";
import { Icon, type IconName } from "./ui/icon";
import { Announcer, Empty, Loading, Page, Problem } from "./ui/parts";

const ROUTES: [string, (found: Record<string, string>) => ComponentChildren][] = [
  ["/ask", () => <AskPage />],
  ["/approvals", () => <ApprovalsPage />],
  ["/approvals/:id", ({ id = "" }) => <ApprovalPage key={id} id={id} />],
  ["/questions", () => <QuestionsPage />],
  ["/questions/:id", ({ id = "" }) => <QuestionPage key={id} id={id} />],
  ["/runs", () => <RunsPage />],
  ["/runs/:id", ({ id = "" }) => <RunPage key={id} id={id} />],
  ["/sessions", () => <SessionsPage />],
  ["/sessions/:id", ({ id = "" }) => <SessionPage key={id} id={id} />],
  ["/documents", () => <DocumentsPage />],
  ["/orders", () => <OrdersPage />],
  ["/tools", () => <ToolsPage />],
  ["/spend", () => <SpendPage />],
  ["/signers", () => <SignersPage />],
  ["/privacy", () => <PrivacyPage />],
  ["/archives", () => <ArchivesPage />],
  ["/fleet", () => <FleetPage />],
  ["/workflows", () => <StartPage />],
];

const NAVIGATION: { to: string; label: string; icon: IconName; isFor?: () => boolean }[] = [
  { to: "/ask", label: "Ask", icon: "ask" },
  { to: "/approvals", label: "Approvals", icon: "approvals" },
  { to: "/questions", label: "Questions", icon: "user" },
  { to: "/runs", label: "Runs", icon: "runs" },
  { to: "/workflows", label: "Workflows", icon: "send", isFor: () => mayOperate.value },
  { to: "/sessions", label: "Sessions", icon: "sessions" },
  { to: "/documents", label: "Documents", icon: "documents" },
  { to: "/orders", label: "Orders", icon: "orders" },
  { to: "/tools", label: "Tools", icon: "tools" },
  { to: "/spend", label: "Spend", icon: "money", isFor: () => mayOperate.value },
  { to: "/signers", label: "Signing keys", icon: "shield" },
  { to: "/privacy", label: "Privacy", icon: "shield", isFor: () => isAdmin.value },
  { to: "/archives", label: "Archives", icon: "documents", isFor: () => isAdmin.value },
  { to: "/fleet", label: "Fleet", icon: "fleet", isFor: () => mayOperate.value },
];

const COUNT_MS = 3000;

export function App() {
  switch (signIn.value) {
    case "unknown":
      return (
        <main class="login" id="main">
          <Loading lines={3} />
        </main>
      );
    case "failed":
      return (
        <main class="login" id="main">
          <div class="login-card">
            <h1>Flotilla</h1>
            <Problem error={failure.value} onRetry={() => void startAccount()} />
          </div>
        </main>
      );
    case "out":
      return <LoginPage />;
    case "in":
      return currentPath.value === "/login" ? <LoginPage /> : <Shell />;
  }
}

function Shell() {
  const path = currentPath.value;
  const counted = useLoaded(api.countApprovals, [], COUNT_MS);
  const pending = counted.data?.pending ?? 0;
  const isMenuOpen = useSignal(false);
  const main = useRef<HTMLElement>(null);
  const isFirst = useRef(true);

  useEffect(() => {
    if (path === "/") navigate(start(), { replace: true });
    isMenuOpen.value = false;
    // A new page begins at its heading, for the eye and for a screen reader.
    if (!isFirst.current) {
      window.scrollTo(0, 0);
      const hasFocus = main.current?.contains(document.activeElement) ?? false; // the question box takes it
      if (!hasFocus) main.current?.querySelector<HTMLElement>("h1")?.focus({ preventScroll: true });
    }
    isFirst.current = false;
  }, [path]);
  useEffect(() => {
    const name = pageTitle.value === "Flotilla" ? "Flotilla" : `${pageTitle.value} · Flotilla`;
    document.title = pending > 0 ? `(${pending}) ${name}` : name;
  }, [pending, pageTitle.value]);

  return (
    <div class="shell">
      <a class="skip" href="#main" onClick={(event) => skip(event, main.current)}>
        Skip to the content
      </a>
      <header class="top">
        <a class="brand" href="/">
          <Icon name="fleet" />
          <span>Flotilla</span>
        </a>
        <button
          type="button"
          class="icon-button menu-button"
          aria-expanded={isMenuOpen.value}
          aria-controls="navigation"
          aria-label={isMenuOpen.value ? "Close the menu" : "Open the menu"}
          onClick={() => (isMenuOpen.value = !isMenuOpen.value)}
        >
          <Icon name={isMenuOpen.value ? "close" : "menu"} />
        </button>
        <div id="navigation" class={isMenuOpen.value ? "side open" : "side"}>
          <nav aria-label="Pages">
            <ul>
              {NAVIGATION.filter((one) => one.isFor?.() ?? true).map((one) => (
                <li key={one.to}>
                  <a href={one.to} aria-current={path.startsWith(one.to) ? "page" : undefined}>
                    <Icon name={one.icon} />
                    {one.label}
                    {one.to === "/approvals" && pending > 0 && (
                      <span class="count">
                        {pending > 10_000 ? "10,000+" : pending}
                        <span class="hidden"> pending</span>
                      </span>
                    )}
                  </a>
                </li>
              ))}
            </ul>
          </nav>
          <Account />
        </div>
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        {page(path)}
      </main>
      <Announcer />
    </div>
  );
}

function start(): string {
  return mayOperate.value ? "/ask" : "/approvals";
}

function skip(event: Event, main: HTMLElement | null): void {
  event.preventDefault();
  main?.focus();
}

function page(path: string): ComponentChildren {
  if (path === "/") return null;
  for (const [pattern, show] of ROUTES) {
    const found = match(pattern, path);
    if (found !== null) return show(found);
  }
  return (
    <Page title="No such page">
      <Empty icon="search" title="There is nothing at this address">
        <a href="/">Home</a>
      </Empty>
    </Page>
  );
}

const THEMES: { name: Theme; label: string; icon: IconName }[] = [
  { name: "system", label: "Match system", icon: "system" },
  { name: "light", label: "Light", icon: "sun" },
  { name: "dark", label: "Dark", icon: "moon" },
];

function Account() {
  const acting = useActing();
  const who = me.value;
  return (
    <div class="account">
      <div class="themes" role="group" aria-label="Colours">
        {THEMES.map((one) => (
          <button
            key={one.name}
            type="button"
            class="icon-button"
            aria-label={one.label}
            title={one.label}
            aria-pressed={theme.value === one.name}
            onClick={() => setTheme(one.name)}
          >
            <Icon name={one.icon} />
          </button>
        ))}
      </div>
      {who !== null && (
        <div class="who">
          <Icon name="user" />
          <div>
            <strong title={`Tenant ${who.tenant}`}>{who.subject}</strong>
            <span class="faint">{who.roles.join(", ") || "no role"}</span>
          </div>
          <button
            type="button"
            class="icon-button"
            aria-label="Sign out"
            title="Sign out"
            disabled={acting.isBusy}
            onClick={() => void acting.run(logOut)}
          >
            <Icon name="out" />
          </button>
        </div>
      )}
      <Problem error={acting.error} />
    </div>
  );
}
